// Multi-head attention and its average over the heads on CPUs with AMX: softmax(QKᵀ/√d + bias)·V.
//
// A core takes some rows of one head at a time, so that their weights stay in its cache between
// the product, the softmax, the average and the second product. What a row gives depends neither
// on the other images of a batch nor on the number of threads. pipeline/clip/compute/fused.py compiles
// this file and says what the arguments are.

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <string>
#include <type_traits>

namespace {

using at::BFloat16;
using at::native::cpublas::brgemm;
using Index = int64_t;

constexpr Index kLanes = 16;           // floats of a vector
constexpr Index kUnit = 2 * kLanes;    // keys are padded to a multiple of it
constexpr Index kRows = 64;            // a core's at a time: 400 KB of weights for 1,600 keys
constexpr float kNegligible = -80.f;   // exp of less is 0: it would make slow, denormal weights
constexpr float kPadding = -1e30f;     // the logit of a key that is padding

// exp(x) for x ≤ 0: 2ⁿ·exp(r) with |r| ≤ ln(2)/2, by a polynomial of degree 6.
inline __m512 exponential(__m512 x) {
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kNegligible), _CMP_NLT_UQ);
  const __m512 n = _mm512_roundscale_ps(
      _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln(2) in two parts, the first of which has few digits.
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 sum = _mm512_set1_ps(1.f / 720);
  for (const float factor : {1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f})
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(factor));
  return _mm512_maskz_scalef_ps(counts, sum, n);
}

template <typename T>
struct Heads {
  const T* data;
  Index image, head, row;  // strides
  const T* at(Index i, Index h, Index r) const { return data + i * image + h * head + r * row; }
};

// Turns the logits of a row into weights, float32 in place or rounded to bfloat16, and adds them
// to the sum over the heads, if there is one.
template <typename T>
void softmax(
    float* row, const float* bias, float scale, Index keys, Index padded, T* weights, float* sum) {
  std::fill(row + keys, row + padded, kPadding);
  if (bias) {
    for (Index k = 0; k < keys; ++k) row[k] = row[k] * scale + bias[k];
    scale = 1.f;
  }
  // Two accumulators at a time hide the latency of the instructions.
  __m512 a = _mm512_set1_ps(-INFINITY), b = a;
  for (Index k = 0; k < padded; k += kUnit) {
    a = _mm512_max_ps(_mm512_loadu_ps(row + k), a);
    b = _mm512_max_ps(_mm512_loadu_ps(row + k + kLanes), b);
  }
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512 shift = _mm512_set1_ps(-scale * _mm512_reduce_max_ps(_mm512_max_ps(a, b)));
  a = b = _mm512_setzero_ps();
  for (Index k = 0; k < padded; k += kUnit) {
    const __m512 x = exponential(_mm512_fmadd_ps(_mm512_loadu_ps(row + k), factor, shift));
    const __m512 y = exponential(_mm512_fmadd_ps(_mm512_loadu_ps(row + k + kLanes), factor, shift));
    a = _mm512_add_ps(a, x);
    b = _mm512_add_ps(b, y);
    _mm512_storeu_ps(row + k, x);
    _mm512_storeu_ps(row + k + kLanes, y);
  }
  const __m512 inverse = _mm512_set1_ps(1.f / _mm512_reduce_add_ps(_mm512_add_ps(a, b)));
  for (Index k = 0; k < padded; k += kUnit) {
    const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(row + k), inverse);
    const __m512 y = _mm512_mul_ps(_mm512_loadu_ps(row + k + kLanes), inverse);
    if (sum) {
      _mm512_storeu_ps(sum + k, _mm512_add_ps(_mm512_loadu_ps(sum + k), x));
      _mm512_storeu_ps(sum + k + kLanes, _mm512_add_ps(_mm512_loadu_ps(sum + k + kLanes), y));
    }
    if constexpr (std::is_same_v<T, float>) {
      _mm512_storeu_ps(weights + k, x);
      _mm512_storeu_ps(weights + k + kLanes, y);
    } else {
      _mm512_storeu_si512(weights + k, (__m512i)_mm512_cvtne2ps_pbh(y, x));
    }
  }
}

// Transposes keys into columns of words: a float, or two channels, as brgemm reads bfloat16.
template <typename T>
void pack_keys(const T* keys, Index stride, Index count, Index words, Index padded, uint32_t* to) {
  constexpr Index kBlock = 16;  // keys whose words share cache lines on both sides
  for (Index first = 0; first < padded; first += kBlock) {
    for (Index word = 0; word < words; ++word) {
      for (Index k = first; k < first + kBlock; ++k) {
        const auto* row = reinterpret_cast<const uint32_t*>(keys + k * stride);
        to[word * padded + k] = k < count ? row[word] : 0;
      }
    }
  }
}

// Interleaves the channels of two values, as brgemm reads bfloat16.
void pack_values(
    const BFloat16* values, Index stride, Index count, Index width, Index padded, BFloat16* to) {
  std::fill_n(to, padded * width, BFloat16(0));
  for (Index k = 0; k < count; ++k) {
    BFloat16* pair = to + k / 2 * 2 * width + k % 2;
    for (Index c = 0; c < width; ++c) pair[2 * c] = values[k * stride + c];
  }
}

template <typename T>
void attend(
    Heads<T> query, Heads<T> key, Heads<T> value, const float* bias, Index bias_image, T* attended,
    float* mean, Index images, Index heads, Index rows, Index keys, Index width, Index prefix) {
  constexpr bool kIsBfloat16 = !std::is_same_v<T, float>;
  const Index padded = (keys + kUnit - 1) / kUnit * kUnit;
  const Index words = width * Index(sizeof(T)) / 4;
  const float scale = 1.f / std::sqrt(float(width));
  const Index size_of_values = kIsBfloat16 && attended ? padded * width : 0;
  const auto packed_keys = std::make_unique_for_overwrite<uint32_t[]>(images * heads * padded * words);
  const auto packed_values = std::make_unique_for_overwrite<BFloat16[]>(images * heads * size_of_values);
  at::parallel_for(0, images * heads, 1, [&](Index begin, Index end) {
    for (Index m = begin; m < end; ++m) {
      const Index i = m / heads, h = m % heads;
      uint32_t* columns = packed_keys.get() + m * padded * words;
      pack_keys(key.at(i, h, 0), key.row, keys, words, padded, columns);
      if constexpr (kIsBfloat16) {
        BFloat16* pairs = packed_values.get() + m * size_of_values;
        if (attended) pack_values(value.at(i, h, 0), value.row, keys, width, padded, pairs);
      }
    }
  });
  const Index parts = (rows + kRows - 1) / kRows;
  at::parallel_for(0, images * parts, 1, [&](Index begin, Index end) {
    const auto logits = std::make_unique_for_overwrite<float[]>(kRows * padded);
    const auto rounded = std::make_unique_for_overwrite<BFloat16[]>(kIsBfloat16 ? kRows * padded : 0);
    const auto sums = std::make_unique_for_overwrite<float[]>(mean ? kRows * padded : 0);
    const auto output = std::make_unique_for_overwrite<float[]>(kRows * width);
    T* weights;
    if constexpr (kIsBfloat16) weights = rounded.get();
    else weights = logits.get();
    for (Index part = begin; part < end; ++part) {
      const Index i = part / parts, first = part % parts * kRows;
      const Index count = std::min(kRows, rows - first);
      if (mean) std::fill_n(sums.get(), count * padded, 0.f);
      for (Index h = 0; h < heads; ++h) {
        const Index m = i * heads + h;
        const auto* columns = reinterpret_cast<const T*>(packed_keys.get() + m * padded * words);
        brgemm(count, padded, width, query.row, padded, padded, false, query.at(i, h, first),
               columns, logits.get(), kIsBfloat16);
        for (Index r = 0; r < count; ++r) {
          const float* added = bias ? bias + i * bias_image + (first + r) * keys : nullptr;
          float* sum = mean ? sums.get() + r * padded : nullptr;
          softmax(logits.get() + r * padded, added, scale, keys, padded, weights + r * padded, sum);
        }
        if (!attended) continue;
        if constexpr (kIsBfloat16)
          brgemm(count, width, padded, padded, width, width, false, weights,
                 packed_values.get() + m * size_of_values, output.get(), true);
        else
          brgemm(count, width, keys, padded, value.row, width, false, weights, value.at(i, h, 0),
                 output.get(), false);
        for (Index r = 0; r < count; ++r) {
          T* to = attended + ((i * rows + first + r) * heads + h) * width;
          for (Index c = 0; c < width; ++c) to[c] = T(output[r * width + c]);
        }
      }
      // Between patches: without the rows and the columns of the tokens before them.
      for (Index r = std::max(Index(0), prefix - first); mean && r < count; ++r) {
        float* to = mean + (i * (rows - prefix) + first + r - prefix) * (keys - prefix) - prefix;
        for (Index k = prefix; k < keys; ++k) to[k] = sums[r * padded + k] / float(heads);
      }
    }
    at::native::cpublas::brgemm_release(kIsBfloat16);
  });
}

template <typename T>
const char* guarded(
    const T* query, const T* key, const T* value, const float* bias, T* attended, float* mean,
    const Index* n) {
  thread_local std::string message;
  try {
    attend<T>(
        {query, n[0], n[1], n[2]}, {key, n[3], n[4], n[5]}, {value, n[6], n[7], n[8]}, bias, n[9],
        attended, mean, n[10], n[11], n[12], n[13], n[14], n[15]);
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

#define ATTEND(name, T)                                                                          \
  extern "C" const char* name(                                                                   \
      const T* query, const T* key, const T* value, const float* bias, T* attended, float* mean, \
      const Index* n) {                                                                          \
    return guarded<T>(query, key, value, bias, attended, mean, n);                               \
  }
ATTEND(attend_float32, float)
ATTEND(attend_bfloat16, BFloat16)
