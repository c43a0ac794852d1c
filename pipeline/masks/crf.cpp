// The dense CRF (Krähenbühl and Koltun, NIPS 2011), with the bits of pydensecrf.
//
// The lattice of the smoothness kernel, which depends on the size of an image alone, stays for the
// next image. exp and sums over labels are those of Eigen, which pydensecrf uses.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <vector>

#include "permutohedral.hpp"

namespace {

constexpr int64_t MAX_LABELS = 24;           // with more, pydensecrf is as fast
constexpr int64_t MAX_KEPT_PIXELS = 1 << 20; // of an image whose lattice is kept

// exp by Cephes (Moshier), as Eigen computes it for four labels at a time.
float cephes_exp(float given) {
    float x = std::max(std::min(given, 88.3762626647950f), -88.3762626647949f);
    const float product = x * 1.44269504088896341f + 0.5f;
    const float cut = static_cast<float>(static_cast<int>(product));
    const float power = cut - (cut > product ? 1.0f : 0.0f);
    x = x - power * 0.693359375f;
    x = x - power * -2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * (x * x) + x + 1.0f;
    const uint32_t bits = static_cast<uint32_t>(static_cast<int>(power) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return std::max(y * scale, given);
}

// Sums values as Eigen does: every other four together, then the fours, then the rest one by one.
float sum_of(const float* values, int count) {
    int summed = 1;
    float sum = values[0];
    if (count >= 4) {
        float fours[2][4] = {};
        std::copy_n(values, 4, fours[0]);
        if (count >= 8) std::copy_n(values + 4, 4, fours[1]);
        for (summed = 8; summed + 8 <= count; summed += 8)
            for (int k = 0; k < 8; k++) fours[k / 4][k % 4] += values[summed + k];
        summed = std::min(summed, count / 4 * 4);
        for (int k = 0; k < 4; k++) fours[0][k] += fours[1][k];
        if (summed + 4 <= count) {
            for (int k = 0; k < 4; k++) fours[0][k] += values[summed + k];
            summed += 4;
        }
        sum = (fours[0][0] + fours[0][2]) + (fours[0][1] + fours[0][3]);
    }
    for (int k = summed; k < count; k++) sum += values[k];
    return sum;
}

void softmax(const float* logits, int64_t pixels, int labels, float* q) {
    const int fours = labels / 4 * 4;
    for (int64_t pixel = 0; pixel < pixels; pixel++, logits += labels, q += labels) {
        const float largest = *std::max_element(logits, logits + labels);
        for (int label = 0; label < fours; label++) q[label] = cephes_exp(logits[label] - largest);
        for (int label = fours; label < labels; label++)
            q[label] = std::exp(logits[label] - largest);
        const float sum = sum_of(q, labels);
        for (int label = 0; label < labels; label++) q[label] /= sum;
    }
}

// Of the smoothness kernel of the last image.
thread_local Lattice<2> smoothness;
thread_local int64_t kept_width = 0;
thread_local float kept_near = 0;

bool mean_field(const float* unary, const unsigned char* image, const float* constants,
                int64_t labels, int64_t height, int64_t width, int64_t iterations,
                float* probabilities) {
    const int64_t pixels = height * width;
    const float near = constants[0], far = constants[2], colour = constants[3];
    if (smoothness.pixels != pixels || kept_width != width || kept_near != near) {
        kept_width = width;
        kept_near = near;
        if (!smoothness.build(pixels, [=](int j, int64_t pixel) {
                return static_cast<float>(j == 0 ? pixel % width : pixel / width) / near;
            }))
            return false;
    }
    Lattice<5> appearance;
    if (!appearance.build(pixels, [=](int j, int64_t pixel) {
            if (j < 2) return static_cast<float>(j == 0 ? pixel % width : pixel / width) / far;
            return static_cast<float>(image[3 * pixel + j - 2]) / colour;
        }))
        return false;
    std::vector<float> negated(pixels * labels), logits(pixels * labels), q(pixels * labels);
    for (int64_t label = 0; label < labels; label++)
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            negated[pixel * labels + label] = -unary[label * pixels + pixel];
    const int count = static_cast<int>(labels);
    softmax(negated.data(), pixels, count, q.data());
    for (int64_t iteration = 0; iteration < iterations; iteration++) {
        logits = negated;
        smoothness.add_filtered(q.data(), count, constants[1], logits.data());
        appearance.add_filtered(q.data(), count, constants[4], logits.data());
        softmax(logits.data(), pixels, count, q.data());
    }
    for (int64_t label = 0; label < labels; label++)
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            probabilities[label * pixels + pixel] = q[pixel * labels + label];
    return true;
}

} // namespace

// Computes the mean field of an image. Returns 0; 1, and computes nothing, where coordinates are too
// large for a key or labels are too many; or 2 where memory runs out.
//
// unary and probabilities: labels × height × width; image: height × width × 3.
// constants: standard deviation of the smoothness kernel and its weight; of the appearance kernel in
// pixels, in colour, and its weight.
extern "C" int dense_crf(const float* unary, const unsigned char* image, const float* constants,
                         int64_t labels, int64_t height, int64_t width, int64_t iterations,
                         float* probabilities) {
    if (labels > MAX_LABELS) return 1;
    int status = 2;
    try {
        status = !mean_field(unary, image, constants, labels, height, width, iterations,
                             probabilities);
    } catch (const std::exception&) { // std::bad_alloc, or std::length_error
    }
    if (status != 0 || height * width > MAX_KEPT_PIXELS) smoothness = {};
    return status;
}
