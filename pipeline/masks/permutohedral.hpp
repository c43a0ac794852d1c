// The permutohedral lattice (Adams, Baek and Davis, Eurographics 2010), with the bits of pydensecrf.
//
// Every sum has the terms and the order that pydensecrf's has on x86-64, so that the compiler may
// not contract products and sums. What differs is where values lie: the keys of a lattice fit into
// one word each, and half of the neighbours are found from the other half.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

constexpr int LANES = 16; // pixels that are embedded together

// Numbers the keys that it is given, from 0, in their order.
class Numbering {
  public:
    explicit Numbering(int64_t expected) {
        size_t capacity = 1024;
        while (capacity < 2 * static_cast<size_t>(expected)) capacity *= 2;
        slots.assign(capacity, {0, -1});
    }

    int add(uint64_t key) {
        if (2 * keys.size() >= slots.size()) grow();
        Slot& slot = slots[place(key)];
        if (slot.number < 0) {
            slot = {key, static_cast<int>(keys.size())};
            keys.push_back(key);
        }
        return slot.number;
    }

    // Returns the number of a key, or -1.
    int find(uint64_t key) const { return slots[place(key)].number; }

    std::vector<uint64_t> keys;

  private:
    struct Slot {
        uint64_t key;
        int number;
    };

    size_t place(uint64_t key) const {
        uint64_t hash = key * 0x9E3779B97F4A7C15u;
        size_t last = slots.size() - 1, at = (hash ^ hash >> 32) & last;
        while (slots[at].number >= 0 && slots[at].key != key) at = (at + 1) & last;
        return at;
    }

    void grow() {
        slots.assign(2 * slots.size(), {0, -1});
        for (size_t number = 0; number < keys.size(); number++)
            slots[place(keys[number])] = {keys[number], static_cast<int>(number)};
    }

    std::vector<Slot> slots;
};

// The permutohedral lattice of pixels with d features, and the filter on it.
template <int d> class Lattice {
  public:
    int64_t pixels = 0;

    // Embeds pixels; feature(j, pixel) is a float. Returns false if a coordinate is too large.
    template <typename Feature> bool build(int64_t count, Feature feature) {
        pixels = 0;
        vertex.resize((d + 1) * count);
        weight.resize((d + 1) * count);
        Numbering numbering(count);
        // Pixels beside each other often have vertices in common.
        uint64_t last_key[d + 1];
        int last_vertex[d + 1];
        std::fill_n(last_key, d + 1, ~uint64_t{0});
        for (int64_t first = 0; first < count; first += LANES) {
            const int lanes = static_cast<int>(std::min<int64_t>(LANES, count - first));
            Simplices simplices;
            simplices.enclose(feature, first, lanes);
            // pydensecrf takes four pixels at a time, and fills up with pixels of zeros. These have
            // vertices, through which others are blurred, but no values.
            for (int lane = 0; lane < (lanes + 3) / 4 * 4; lane++) {
                float barycentric[d + 2] = {};
                int key[d + 1], rank[d + 1];
                for (int j = 0; j <= d; j++) {
                    if (!(std::abs(simplices.remainder0[j][lane]) < LIMIT)) return false;
                    key[j] = static_cast<int>(simplices.remainder0[j][lane]);
                    rank[j] = static_cast<int>(simplices.rank[j][lane]);
                    float inside = simplices.elevated[j][lane] - simplices.remainder0[j][lane];
                    inside *= 1.0f / (d + 1);
                    barycentric[d - rank[j]] += inside;
                    barycentric[d - rank[j] + 1] -= inside;
                }
                barycentric[0] += 1 + barycentric[d + 1];
                const int64_t own = (d + 1) * (first + lane);
                for (int remainder = 0; remainder <= d; remainder++) {
                    uint64_t packed = 0;
                    for (int j = 0; j < d; j++) {
                        int shifted = rank[j] > d - remainder ? remainder - (d + 1) : remainder;
                        packed |= (static_cast<uint64_t>(key[j] + shifted + BIAS) & MASK) << BITS * j;
                    }
                    if (packed != last_key[remainder]) {
                        last_key[remainder] = packed;
                        last_vertex[remainder] = numbering.add(packed) + 1;
                    }
                    if (lane >= lanes) continue;
                    vertex[own + remainder] = last_vertex[remainder];
                    weight[own + remainder] = barycentric[remainder];
                }
            }
        }
        pixels = count;
        connect(numbering);
        normalise();
        return true;
    }

    // Adds factor · N F N q to the target, where F is the filter and N the normalisation. Both are
    // pixels × labels.
    void add_filtered(const float* q, int labels, float factor, float* target) {
        for (int first = 0; first < labels; first += 4) {
            const int some = std::min(4, labels - first);
            if (labels <= 2)
                filter<2, false>(q, labels, labels, factor, target);
            else
                filter<4, true>(q + first, labels, some, factor, target + first);
        }
    }

  private:
    static constexpr int BITS = d == 2 ? 24 : 12; // of a coordinate in a key
    static constexpr int BIAS = 1 << (BITS - 1);
    static constexpr uint64_t MASK = (uint64_t{1} << BITS) - 1;
    static constexpr float LIMIT = (d == 2 ? 1 << 15 : 1 << 11) - 2 * (d + 1);

    struct Neighbours {
        int before, after; // vertices from 1; 0 has no value
    };

    std::vector<int> vertex;        // of a pixel, d + 1 each, from 1
    std::vector<float> weight;      // barycentric coordinates
    std::vector<Neighbours> beside; // of each vertex along d + 1 axes
    std::vector<float> norm;        // of each pixel
    int vertices = 0;
    std::vector<float> values, blurred;

    // The simplices that enclose some pixels, and the pixels' elevated coordinates.
    struct Simplices {
        float elevated[d + 1][LANES], remainder0[d + 1][LANES], rank[d + 1][LANES];

        template <typename Feature> void enclose(Feature feature, int64_t first, int lanes) {
            // The standard deviation of the filter, and the diagonal part of E (page 5).
            const float deviation = std::sqrt(2.0 / 3.0) * (d + 1);
            float sum[LANES] = {}, scaled[LANES];
            for (int j = d; j > 0; j--) {
                const float scale = 1.0 / std::sqrt((j + 1) * j) * deviation;
                for (int lane = 0; lane < LANES; lane++)
                    scaled[lane] = (lane < lanes ? feature(j - 1, first + lane) : 0.0f) * scale;
                for (int lane = 0; lane < LANES; lane++) {
                    elevated[j][lane] = sum[lane] - static_cast<float>(j) * scaled[lane];
                    sum[lane] += scaled[lane];
                }
            }
            std::copy_n(sum, LANES, elevated[0]);
            // The closest point of remainder 0, by rounding.
            std::fill_n(sum, LANES, 0.0f);
            for (int j = 0; j <= d; j++)
                for (int lane = 0; lane < LANES; lane++) {
                    const float rounded = std::nearbyint(1.0f / (d + 1) * elevated[j][lane]);
                    remainder0[j][lane] = rounded * (d + 1);
                    sum[lane] += rounded;
                    rank[j][lane] = 0;
                }
            for (int i = 0; i < d; i++)
                for (int j = i + 1; j <= d; j++)
                    for (int lane = 0; lane < LANES; lane++) {
                        const float one = elevated[i][lane] - remainder0[i][lane];
                        const float other = elevated[j][lane] - remainder0[j][lane];
                        const float is_less = one < other ? 1.0f : 0.0f;
                        rank[i][lane] += is_less;
                        rank[j][lane] += 1.0f - is_less;
                    }
            // Back to the plane, if the point does not lie on it.
            for (int j = 0; j <= d; j++)
                for (int lane = 0; lane < LANES; lane++) {
                    const float moved = rank[j][lane] + sum[lane];
                    const float step = moved < 0 ? d + 1.0f : moved >= d + 1 ? -(d + 1.0f) : 0.0f;
                    rank[j][lane] = moved + step;
                    remainder0[j][lane] += step;
                }
        }
    };

    // Finds the neighbours of all vertices: the one after a vertex has it before itself.
    void connect(const Numbering& numbering) {
        vertices = static_cast<int>(numbering.keys.size());
        beside.assign((d + 1) * static_cast<int64_t>(vertices), {0, 0});
        for (int axis = 0; axis <= d; axis++) {
            uint64_t step = 0;
            for (int j = 0; j < d; j++)
                step += static_cast<uint64_t>(static_cast<int64_t>(j == axis ? -d : 1)) << BITS * j;
            Neighbours* along = &beside[axis * static_cast<int64_t>(vertices)];
            for (int own = 0; own < vertices; own++) {
                const int after = numbering.find(numbering.keys[own] + step);
                if (after < 0) continue;
                along[own].after = after + 1;
                along[after].before = own + 1;
            }
        }
    }

    void normalise() {
        norm.assign(pixels, 1.0f);
        std::vector<float> sums(pixels);
        filter<1, false>(norm.data(), 1, 1, 1.0f, sums.data());
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            norm[pixel] = 1.0 / std::sqrt(sums[pixel] + 1e-20);
    }

    // Splats, blurs and slices some labels of pixels whose labels lie ``stride`` apart.
    // pydensecrf scales by alpha after the weight for up to two labels, and before it for more.
    template <int width, bool alpha_first>
    void filter(const float* q, int stride, int labels, float factor, float* target) {
        values.assign((vertices + 1) * static_cast<int64_t>(width), 0.0f);
        blurred.resize(values.size());
        std::fill_n(blurred.data(), width, 0.0f);
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            float own[width] = {};
            for (int label = 0; label < labels; label++)
                own[label] = q[pixel * stride + label] * norm[pixel];
            for (int64_t j = (d + 1) * pixel; j < (d + 1) * (pixel + 1); j++) {
                float* at = &values[vertex[j] * static_cast<int64_t>(width)];
                for (int label = 0; label < width; label++) at[label] += weight[j] * own[label];
            }
        }
        for (int axis = 0; axis <= d; axis++) {
            const Neighbours* along = &beside[axis * static_cast<int64_t>(vertices)];
            const float* old = values.data();
            for (int64_t own = 1; own <= vertices; own++) {
                const float* before = old + along[own - 1].before * static_cast<int64_t>(width);
                const float* after = old + along[own - 1].after * static_cast<int64_t>(width);
                for (int label = 0; label < width; label++)
                    blurred[own * width + label] =
                        old[own * width + label] + 0.5f * (before[label] + after[label]);
            }
            values.swap(blurred);
        }
        const float alpha = 1.0f / (1 + std::pow(2.0f, -d));
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            float sum[width] = {};
            for (int64_t j = (d + 1) * pixel; j < (d + 1) * (pixel + 1); j++) {
                const float* at = &values[vertex[j] * static_cast<int64_t>(width)];
                for (int label = 0; label < width; label++)
                    sum[label] += alpha_first ? weight[j] * alpha * at[label]
                                              : weight[j] * at[label] * alpha;
            }
            for (int label = 0; label < labels; label++)
                target[pixel * stride + label] += factor * (sum[label] * norm[pixel]);
        }
    }
};

} // namespace
