// k1: LayerNorm of both streams, K/V projection and attention with swapped queries, FP16 in, FP32 sums.
//
// One launch for all pyramid levels, both streams and all heads of a depth: grid (levels * 2 * heads, batch),
// four warps a block.  Source: Zheng et al., "POSTER" (2022), eq. 3-5.  kernels/reference.py, attend(), is the
// oracle; the layout of the arguments is that of kernels/shape.py and kernels/pack.py.
//
// LayerNorm needs no pass over the data.  Its scale is folded into the weights W', so that for a row x
//     LayerNorm(x) W'^T = rstd * (x W'^T - mean * sums),     sums = the row sums of W',
// and raw rows go from global memory straight into the matrix unit; mean and rstd come from the partial sums
// that the depth before left, or are computed here.  This rounds nothing but x and W' themselves.

#include "device.h"

namespace poster_edge {

constexpr int kRows = 64;           // tokens of one stream, padded
constexpr int kChunk = 32;          // columns of x and W' in one step of the pipeline
constexpr int kPitch = kChunk + 8;  // halves from row to row: eight rows fall into different banks
constexpr int kStages = 3;
constexpr int kThreads = 128;
constexpr int kMaxHead = 64;
constexpr int kMaxLevels = 3;
constexpr float kEpsilon = 1e-6f;

constexpr int kStageHalves = (kRows + 2 * kMaxHead) * kPitch;
constexpr int kTileBytes = kStages * kStageHalves * 2;
constexpr int kSharedBytes = kTileBytes + 4 * kRows * static_cast<int>(sizeof(float));
static_assert(kSharedBytes <= 48 * 1024, "more than every device gives without asking");
static_assert(2 * kRows * (kMaxHead + 8) * 2 <= kTileBytes, "K and V take the place of the stages");

// What a launch works on; kernels/cuda/launch.py mirrors it.
struct Problem {
  const half_t* x;        // (B, 2N, W) rows of all levels, image stream first
  const float* partials;  // (B, 2N, L, H, 2) mean and M2 of each head's columns, or null
  const half_t* kv;       // per level, per stream: K rows (D, D), V rows (D, D), LayerNorm's scale folded in
  const float* sums;      // (2 streams, 2, W) sums over the rows of kv
  const float* query;     // (2 streams, 2, W) factor and shift of the queries, with scale * log2(e)
  half_t* out;            // (B, 2N, W)
  int tokens;             // N
  int heads;              // H
  int levels;             // L
  int width;              // W
  int dims[kMaxLevels];   // D of each level
};

// What one block computes.
struct Place {
  int stream, head, level, dim;
  int column;      // first column of the level in a row of W
  size_t row;      // first row of the sample
  size_t weights;  // first value of the level and stream in kv
};

// Row statistics of the tokens that give K and V, and of those that ask.
struct Statistics {
  float *mean, *scale, *query_mean, *query_scale;
};

PE_DEVICE Place find_place(const Problem& p) {
  Place at;
  const int block = block_x();
  at.level = block / (2 * p.heads);
  at.stream = block / p.heads % 2;
  at.head = block % p.heads;
  at.column = 0;
  at.dim = 0;
  size_t squares = 0;
  // Constant indices: a level looked up by number would put the arguments on the stack.
#pragma unroll
  for (int i = 0; i < kMaxLevels; ++i) {
    if (i == at.level) at.dim = p.dims[i];
    if (i >= at.level) continue;
    at.column += p.dims[i];
    squares += static_cast<size_t>(p.dims[i]) * p.dims[i];
  }
  at.row = static_cast<size_t>(block_y()) * 2 * p.tokens;
  at.weights = 4 * squares + static_cast<size_t>(at.stream) * 2 * at.dim * at.dim;
  return at;
}

// One thread a row: combine the heads' partial sums (Chan et al., 1979, eq. 2.1, equal counts).
PE_DEVICE void combine_partials(const Problem& p, const Place& at, const Statistics& s) {
  const int thread = thread_index(), row = thread % kRows;
  const bool asks = thread >= kRows;
  float mean = 0.f, scale = 0.f;
  if (row < p.tokens) {
    const int token = (asks != (at.stream == 1) ? p.tokens : 0) + row;
    const float* part = p.partials + ((at.row + token) * p.levels + at.level) * p.heads * 2;
    for (int h = 0; h < p.heads; ++h) mean += part[2 * h];
    mean /= p.heads;
    float m2 = 0.f, between = 0.f;
    for (int h = 0; h < p.heads; ++h) {
      const float d = part[2 * h] - mean;
      m2 += part[2 * h + 1];
      between += d * d;
    }
    const float variance = (m2 + between * (at.dim / p.heads)) / at.dim;
    scale = inverse_root(variance + kEpsilon);
  }
  (asks ? s.query_mean : s.mean)[row] = mean;
  (asks ? s.query_scale : s.scale)[row] = scale;
}

// Eight lanes a row, in one pass: sums of differences from the row's first value, which cancel little.
PE_DEVICE void measure_rows(const Problem& p, const Place& at, const Statistics& s) {
  const int lane = thread_index() % 8, group = thread_index() / 8;
  for (int i = group; i < 2 * kRows; i += kThreads / 8) {
    const bool asks = i >= kRows;
    const int row = i % kRows;
    const bool real = row < p.tokens;
    const int token = (asks != (at.stream == 1) ? p.tokens : 0) + (real ? row : 0);
    const half_t* x = p.x + (at.row + token) * p.width + at.column;
    const float origin = to_float(x[0]);
    float sum = 0.f, squares = 0.f;
    for (int c = lane * 8; c < at.dim; c += 64) {
      uint32_t v[4];
      load16(v, x + c);
      for (int j = 0; j < 4; ++j) {
        float low, high;
        unpack(v[j], low, high);
        low -= origin;
        high -= origin;
        sum += low + high;
        squares += low * low + high * high;
      }
    }
    for (int step = 1; step < 8; step *= 2) {
      sum += shuffle_xor(sum, step);
      squares += shuffle_xor(squares, step);
    }
    if (lane == 0) {
      const float offset = sum / at.dim;
      const float variance = fmaxf(squares / at.dim - offset * offset, 0.f);
      (asks ? s.query_mean : s.mean)[row] = real ? origin + offset : 0.f;
      (asks ? s.query_scale : s.scale)[row] = real ? inverse_root(variance + kEpsilon) : 0.f;
    }
  }
}

// Start copying one chunk of x and W' into a stage; what lies outside becomes zero.
template <int HD>
PE_DEVICE void load_chunk(const Problem& p, const Place& at, half_t* stage, int chunk) {
  constexpr int kPieces = kChunk / 8;
  for (int i = thread_index(); i < kRows * kPieces; i += kThreads) {
    const int row = i / kPieces, c = chunk * kChunk + i % kPieces * 8;
    const bool inside = row < p.tokens && c < at.dim;
    const size_t token = at.row + at.stream * p.tokens + (inside ? row : 0);
    copy16(stage + row * kPitch + i % kPieces * 8, p.x + token * p.width + at.column + (inside ? c : 0), inside);
  }
  half_t* weights = stage + kRows * kPitch;
  const half_t* kv = p.kv + at.weights;
  for (int i = thread_index(); i < 2 * HD * kPieces; i += kThreads) {
    const int row = i / kPieces, c = chunk * kChunk + i % kPieces * 8;
    const bool inside = c < at.dim;
    // Rows 0..HD-1 make this head's K, the next HD its V.
    const size_t out = static_cast<size_t>(row / HD) * at.dim + at.head * HD + row % HD;
    copy16(weights + row * kPitch + i % kPieces * 8, kv + out * at.dim + (inside ? c : 0), inside);
  }
}

// Addresses for load_matrices: a 16 x 16 tile as operand A or, transposed, as B ...
PE_DEVICE const half_t* tile_rows(const half_t* tile, int pitch) {
  const int lane = thread_index() % 32;
  return tile + lane % 16 * pitch + lane / 16 * 8;
}
// ... and two 8-column tiles of B that lie as rows of 16 values.
PE_DEVICE const half_t* tile_columns(const half_t* tile, int pitch) {
  const int lane = thread_index() % 32;
  return tile + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8;
}

// sums[j] += a * (rows 8j.. of `matrix`)^T for all tiles j, over 16 columns.
template <int TILES>
PE_DEVICE void multiply_rows(float (&sums)[TILES][4], const uint32_t (&a)[4], const half_t* matrix, int pitch) {
#pragma unroll
  for (int j = 0; j < TILES; j += 2) {
    uint32_t b[4];
    load_matrices(b, tile_columns(matrix + j * 8 * pitch, pitch));
    multiply(sums[j], a, b[0], b[1]);
    multiply(sums[j + 1], a, b[2], b[3]);
  }
}

// K and V of all tokens of the source stream for one head, normalised, into shared memory as FP16.
template <int HD>
PE_DEVICE void project(const Problem& p, const Place& at, const Statistics& s, half_t* stages, half_t* k, half_t* v) {
  constexpr int kTiles = 2 * HD / 8;
  const int warp = thread_index() / 32, lane = thread_index() % 32;
  const int chunks = (at.dim + kChunk - 1) / kChunk;
  float sums[kTiles][4] = {};
  for (int c = 0; c < chunks; ++c) {
    wait_copies<kStages - 2>();
    barrier();
    // The barrier also says that every warp has left the stage that is filled now.
    const int next = c + kStages - 1;
    if (next < chunks) load_chunk<HD>(p, at, stages + next % kStages * kStageHalves, next);
    commit_copies();
    const half_t* stage = stages + c % kStages * kStageHalves;
#pragma unroll
    for (int step = 0; step < kChunk; step += 16) {
      uint32_t a[4];
      load_matrices(a, tile_rows(stage + warp * 16 * kPitch + step, kPitch));
      multiply_rows<kTiles>(sums, a, stage + kRows * kPitch + step, kPitch);
    }
  }
  wait_copies<0>();
  barrier();
  const float* row_sums = p.sums + static_cast<size_t>(at.stream) * 2 * p.width + at.column + at.head * HD;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const int value = j >= kTiles / 2, column = (j - value * kTiles / 2) * 8 + lane % 4 * 2;
    const float sum0 = row_sums[value * p.width + column], sum1 = row_sums[value * p.width + column + 1];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp * 16 + half * 8 + lane / 4;
      const float mean = s.mean[row], scale = s.scale[row];
      store_pair((value ? v : k) + row * (HD + 8) + column, scale * (sums[j][2 * half] - mean * sum0),
                 scale * (sums[j][2 * half + 1] - mean * sum1));
    }
  }
  barrier();
}

// Normalised, scaled queries of this warp's 16 tokens as operand A; zero beyond the last token.
template <int HD>
PE_DEVICE void load_queries(const Problem& p, const Place& at, const Statistics& s, uint32_t (&q)[HD / 16][4]) {
  const int warp = thread_index() / 32, lane = thread_index() % 32;
  const float* factor = p.query + static_cast<size_t>(at.stream) * 2 * p.width + at.column + at.head * HD;
  const float* shift = factor + p.width;
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    const int row = warp * 16 + part % 2 * 8 + lane / 4;
    const size_t token = at.row + (1 - at.stream) * p.tokens + row;
#pragma unroll
    for (int step = 0; step < HD / 16; ++step) {
      q[step][part] = 0;
      if (row < p.tokens) {
        const int c = step * 16 + part / 2 * 8 + lane % 4 * 2;
        float low, high;
        unpack(load_pair(p.x + token * p.width + at.column + at.head * HD + c), low, high);
        low = (low - s.query_mean[row]) * s.query_scale[row] * factor[c] + shift[c];
        high = (high - s.query_mean[row]) * s.query_scale[row] * factor[c + 1] + shift[c + 1];
        q[step][part] = pack(low, high);
      }
    }
  }
}

// Turn logits (in powers of two) into unnormalised weights; returns 1 / their sum for rows g and g + 8.
PE_DEVICE void exponentiate(float (&logits)[kRows / 8][4], int tokens, float (&inverse)[2]) {
  const int lane = thread_index() % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = -INFINITY, sum = 0.f;
#pragma unroll
    for (int i = 0; i < kRows / 4; ++i) {
      float& logit = logits[i / 2][2 * half + i % 2];
      if (i / 2 * 8 + lane % 4 * 2 + i % 2 >= tokens) logit = -INFINITY;
      top = fmaxf(top, logit);
    }
    top = fmaxf(top, shuffle_xor(top, 1));
    top = fmaxf(top, shuffle_xor(top, 2));
#pragma unroll
    for (int i = 0; i < kRows / 4; ++i) {
      float& logit = logits[i / 2][2 * half + i % 2];
      logit = power_of_two(logit - top);
      sum += logit;
    }
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    inverse[half] = 1.f / sum;
  }
}

// Attention of this warp's 16 queries over all keys, written to global memory.
template <int HD>
PE_DEVICE void attend(const Problem& p, const Place& at, const uint32_t (&q)[HD / 16][4], const half_t* k,
                      const half_t* v) {
  const int warp = thread_index() / 32, lane = thread_index() % 32;
  float weights[kRows / 8][4] = {};
#pragma unroll
  for (int step = 0; step < HD / 16; ++step) multiply_rows<kRows / 8>(weights, q[step], k + step * 16, HD + 8);
  float inverse[2];
  exponentiate(weights, p.tokens, inverse);
  float sums[HD / 8][4] = {};
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step) {
    // A product's sums lie as the next product's operand A wants them.
    const float(&w0)[4] = weights[2 * step], (&w1)[4] = weights[2 * step + 1];
    const uint32_t a[4] = {pack(w0[0], w0[1]), pack(w0[2], w0[3]), pack(w1[0], w1[1]), pack(w1[2], w1[3])};
#pragma unroll
    for (int j = 0; j < HD / 8; j += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, tile_rows(v + step * 16 * (HD + 8) + j * 8, HD + 8));
      multiply(sums[j], a, b[0], b[1]);
      multiply(sums[j + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + half * 8 + lane / 4;
    if (row >= p.tokens) continue;
    half_t* out = p.out + (at.row + at.stream * p.tokens + row) * p.width + at.column + at.head * HD + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < HD / 8; ++j)
      store_pair(out + j * 8, sums[j][2 * half] * inverse[half], sums[j][2 * half + 1] * inverse[half]);
  }
}

template <int HD>
PE_DEVICE void run(const Problem& p, const Place& at, unsigned char* memory) {
  half_t* stages = reinterpret_cast<half_t*>(memory);
  float* rows = reinterpret_cast<float*>(memory + kTileBytes);
  const Statistics s = {rows, rows + kRows, rows + 2 * kRows, rows + 3 * kRows};
  for (int c = 0; c < kStages - 1; ++c) {
    if (c * kChunk < at.dim) load_chunk<HD>(p, at, stages + c * kStageHalves, c);
    commit_copies();
  }
  if (p.partials != nullptr)
    combine_partials(p, at, s);
  else
    measure_rows(p, at, s);
  barrier();
  uint32_t q[HD / 16][4];
  load_queries<HD>(p, at, s, q);
  half_t *k = stages, *v = stages + kRows * (HD + 8);
  project<HD>(p, at, s, stages, k, v);
  attend<HD>(p, at, q, k, v);
}

PE_KERNEL(kThreads) void poster_edge_k1(const Problem p) {
  unsigned char* memory = shared_memory<kSharedBytes>();
  const Place at = find_place(p);
  switch (at.dim / p.heads) {
    case 64: return run<64>(p, at, memory);
    case 32: return run<32>(p, at, memory);
    case 16: return run<16>(p, at, memory);
  }
}

}  // namespace poster_edge

#ifdef POSTER_EDGE_EMULATE
extern "C" int poster_edge_k1_problem_bytes() { return sizeof(poster_edge::Problem); }

extern "C" int poster_edge_k1_emulated(const poster_edge::Problem* p, int batch, unsigned seed, char* message,
                                       int size) {
  return poster_edge::emulate([p] { poster_edge::poster_edge_k1(*p); }, p->levels * 2 * p->heads, batch,
                              poster_edge::kThreads, poster_edge::kSharedBytes, seed, message, size);
}
#endif
