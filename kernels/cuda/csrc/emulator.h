// device.h's operations on a host: runs a kernel's own source, thread by thread, to check its numerics.
//
// Every CUDA thread is a fiber.  Warp-wide operations and barriers suspend it; the order in which warps go on is
// drawn from a seed.  Shared memory starts as NaN, asynchronous copies land only when they are waited for, and
// their addresses are checked: a missing wait or barrier, or a wrong address, shows as NaN, as a result that
// changes with the seed, or as an error.  Slow, and no model of time.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#define PE_DEVICE inline
#define PE_KERNEL(threads) inline

namespace poster_edge {

using half_t = unsigned short;
constexpr int kWarp = 32;
constexpr size_t kStackBytes = 64 * 1024;

// ---- FP16, rounded to nearest even -----------------------------------------------------------------------------

inline float widen(half_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 1023u;
  if (exponent == 0) return (sign ? -1.f : 1.f) * static_cast<float>(fraction) * 0x1p-24f;
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float to_float(half_t h) {
  static const std::vector<float> table = [] {
    std::vector<float> values(1 << 16);
    for (int i = 0; i < 1 << 16; ++i) values[i] = widen(static_cast<half_t>(i));
    return values;
  }();
  return table[h];
}

inline half_t to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return static_cast<half_t>(sign | 0x7e00u);
  if (size >= 0x477ff000u) return static_cast<half_t>(sign | 0x7c00u);
  // Below 2^-14 the step is fixed.
  if (size < 0x38800000u) return static_cast<half_t>(sign | static_cast<uint32_t>(std::nearbyint(std::fabs(x) * 0x1p24f)));
  size += 0xfffu + (size >> 13 & 1);
  return static_cast<half_t>(sign | (size - 0x38000000u) >> 13);
}

// ---- Threads, warps, blocks ------------------------------------------------------------------------------------

enum class State { ready, at_barrier, in_warp, done };
using Collective = void (*)(void** operands);

struct Copy {
  half_t* to;
  const half_t* from;
  bool inside;
};

struct Thread {
  ucontext_t start;
  jmp_buf here;
  bool started;
  State state;
  Collective operation;
  void* operands;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
};

class Block {
 public:
  Block(const std::function<void()>& kernel, int threads, int bytes, unsigned seed)
      : kernel_(kernel), threads_(threads), memory_(bytes + 15), bytes_(bytes), random_(seed) {
    const size_t address = reinterpret_cast<size_t>(memory_.data());
    shared_ = memory_.data() + (16 - address % 16) % 16;
  }

  // Run one block; returns an error or "".
  std::string run(int x, int y) {
    this->x = x;
    this->y = y;
    error_.clear();
    std::fill(memory_.begin(), memory_.end(), 0xff);
    for (Thread& t : threads_) {
      t.started = false;
      t.state = State::ready;
      t.open.clear();
      t.groups.clear();
    }
    const int warps = static_cast<int>(threads_.size()) / kWarp;
    while (error_.empty() && !all(State::done)) {
      std::vector<int> able;
      for (int w = 0; w < warps; ++w)
        if (runnable(w)) able.push_back(w);
      if (able.empty()) {
        if (!all(State::at_barrier)) return "the block waits for ever: not all threads reached a barrier";
        for (Thread& t : threads_) t.state = State::ready;
        continue;
      }
      const int warp = able[random_() % able.size()];
      for (unsigned turns = 1 + random_() % 64; turns > 0 && error_.empty() && runnable(warp); --turns) advance(warp);
    }
    return error_;
  }

  // Called by a thread: give way until the block lets it go on.
  void suspend(State state) {
    Thread& t = threads_[current];
    t.state = state;
    if (_setjmp(t.here) == 0) _longjmp(scheduler_, 1);
  }

  void collect(Collective operation, void* operands) {
    threads_[current].operation = operation;
    threads_[current].operands = operands;
    suspend(State::in_warp);
  }

  // Called by a thread: end the run.
  void fail(const std::string& error) {
    error_ = error;
    suspend(State::done);
  }

  void check_shared(const void* pointer, size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(pointer);
    if (p < shared_ || p + bytes > shared_ + bytes_) fail("an address outside shared memory");
    if (reinterpret_cast<size_t>(p) % bytes != 0) fail("a misaligned address in shared memory");
  }

  Thread& thread() { return threads_[current]; }
  unsigned char* shared() { return shared_; }

  int x = 0, y = 0, current = 0;

 private:
  bool all(State state) const {
    return std::all_of(threads_.begin(), threads_.end(), [=](const Thread& t) { return t.state == state; });
  }

  // Whether a warp can go on: a thread is ready, or all wait for the same warp-wide operation.
  bool runnable(int warp) const {
    int waiting = 0;
    for (int i = 0; i < kWarp; ++i) {
      const State state = threads_[warp * kWarp + i].state;
      if (state == State::ready) return true;
      waiting += state == State::in_warp;
    }
    return waiting > 0;
  }

  // Let every ready thread of a warp run to its next stop, then do the operation that they all wait for.
  void advance(int warp) {
    int order[kWarp];
    for (int i = 0; i < kWarp; ++i) order[i] = warp * kWarp + i;
    std::shuffle(order, order + kWarp, random_);
    for (int i : order)
      if (threads_[i].state == State::ready && error_.empty()) resume(i);
    void* operands[kWarp];
    Thread* lanes = &threads_[warp * kWarp];
    int waiting = 0;
    for (int i = 0; i < kWarp; ++i) {
      waiting += lanes[i].state == State::in_warp && lanes[i].operation == lanes[0].operation;
      operands[i] = lanes[i].operands;
    }
    const bool some = std::any_of(lanes, lanes + kWarp, [](const Thread& t) { return t.state == State::in_warp; });
    if (!some || !error_.empty()) return;
    if (waiting != kWarp) {
      error_ = "the lanes of a warp are at different operations";
      return;
    }
    lanes[0].operation(operands);
    for (int i = 0; i < kWarp; ++i) lanes[i].state = State::ready;
  }

  void resume(int index) {
    current = index;
    Thread& t = threads_[index];
    if (_setjmp(scheduler_) != 0) return;
    if (t.started) _longjmp(t.here, 1);
    t.started = true;
    getcontext(&t.start);
    t.start.uc_stack.ss_sp = t.stack.get();
    t.start.uc_stack.ss_size = kStackBytes;
    t.start.uc_link = nullptr;
    makecontext(&t.start, reinterpret_cast<void (*)()>(&Block::enter), 0);
    setcontext(&t.start);
  }

  static void enter();

  const std::function<void()>& kernel_;
  std::vector<Thread> threads_;
  std::vector<unsigned char> memory_;
  unsigned char* shared_;
  size_t bytes_;
  std::mt19937 random_;
  std::string error_;
  jmp_buf scheduler_;
};

inline thread_local Block* g_block = nullptr;

inline void Block::enter() {
  g_block->kernel_();
  g_block->suspend(State::done);
}

// Run a whole grid; 0, or 1 with a message.
inline int emulate(const std::function<void()>& kernel, int grid_x, int grid_y, int threads, int bytes, unsigned seed,
                   char* message, int size) {
  Block block(kernel, threads, bytes, seed);
  g_block = &block;
  for (int y = 0; y < grid_y; ++y)
    for (int x = 0; x < grid_x; ++x) {
      const std::string error = block.run(x, y);
      if (error.empty()) continue;
      std::snprintf(message, size, "block (%d, %d), thread %d: %s", x, y, block.current, error.c_str());
      return 1;
    }
  return 0;
}

// ---- The operations of device.h --------------------------------------------------------------------------------

inline int thread_index() { return g_block->current; }
inline int block_x() { return g_block->x; }
inline int block_y() { return g_block->y; }
inline void barrier() { g_block->suspend(State::at_barrier); }
inline float inverse_root(float x) { return 1.f / std::sqrt(x); }
inline float power_of_two(float x) { return std::exp2(x); }

template <int BYTES>
unsigned char* shared_memory() {
  return g_block->shared();
}

inline uint32_t pack(float low, float high) { return to_half(low) | static_cast<uint32_t>(to_half(high)) << 16; }

inline void unpack(uint32_t pair, float& low, float& high) {
  low = to_float(static_cast<half_t>(pair));
  high = to_float(static_cast<half_t>(pair >> 16));
}

inline uint32_t load_pair(const half_t* from) {
  if (reinterpret_cast<size_t>(from) % 4 != 0) g_block->fail("a misaligned pair");
  return from[0] | static_cast<uint32_t>(from[1]) << 16;
}

inline void store_pair(half_t* to, float low, float high) {
  if (reinterpret_cast<size_t>(to) % 4 != 0) g_block->fail("a misaligned pair");
  to[0] = to_half(low);
  to[1] = to_half(high);
}

inline void load16(uint32_t (&v)[4], const half_t* from) {
  if (reinterpret_cast<size_t>(from) % 16 != 0) g_block->fail("a misaligned load of 16 bytes");
  std::memcpy(v, from, 16);
}

inline void copy16(half_t* to, const half_t* from, bool inside) {
  g_block->check_shared(to, 16);
  if (reinterpret_cast<size_t>(from) % 16 != 0) g_block->fail("a misaligned copy of 16 bytes");
  g_block->thread().open.push_back({to, from, inside});
}

inline void commit_copies() {
  Thread& t = g_block->thread();
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

template <int PENDING>
void wait_copies() {
  auto& groups = g_block->thread().groups;
  for (; groups.size() > PENDING; groups.pop_front())
    for (const Copy& c : groups.front()) {
      if (c.inside)
        std::memcpy(c.to, c.from, 16);
      else
        std::memset(c.to, 0, 16);
    }
}

struct Shuffle {
  float value, result;
  int mask;
};

inline float shuffle_xor(float value, int mask) {
  Shuffle mine{value, 0.f, mask};
  g_block->collect(
      [](void** lanes) {
        auto at = [=](int i) { return static_cast<Shuffle*>(lanes[i]); };
        for (int i = 0; i < kWarp; ++i) at(i)->result = at(i ^ at(i)->mask)->value;
      },
      &mine);
  return mine.result;
}

struct Load {
  uint32_t* r;
  const half_t* row;
};

inline void load_matrices(uint32_t (&r)[4], const half_t* row) {
  g_block->check_shared(row, 16);
  Load mine{r, row};
  g_block->collect(
      [](void** lanes) {
        auto at = [=](int i) { return static_cast<Load*>(lanes[i]); };
        for (int i = 0; i < kWarp; ++i)
          for (int m = 0; m < 4; ++m) std::memcpy(at(i)->r + m, at(8 * m + i / 4)->row + i % 4 * 2, 4);
      },
      &mine);
}

inline void load_matrices_transposed(uint32_t (&r)[4], const half_t* row) {
  g_block->check_shared(row, 16);
  Load mine{r, row};
  g_block->collect(
      [](void** lanes) {
        auto at = [=](int i) { return static_cast<Load*>(lanes[i]); };
        for (int i = 0; i < kWarp; ++i)
          for (int m = 0; m < 4; ++m) {
            const half_t *first = at(8 * m + i % 4 * 2)->row, *second = at(8 * m + i % 4 * 2 + 1)->row;
            at(i)->r[m] = first[i / 4] | static_cast<uint32_t>(second[i / 4]) << 16;
          }
      },
      &mine);
}

struct Product {
  float* d;
  const uint32_t *a, *b;
};

// mma.m16n8k16: lane i holds of A rows i/4 (+8), columns 2(i%4) (+8); of B those as rows, column i/4.
inline void multiply_warp(void** lanes) {
  float a[16][16], b[16][8], d[16][8];
  for (int i = 0; i < kWarp; ++i) {
    const Product& mine = *static_cast<Product*>(lanes[i]);
    const int row = i / 4, column = i % 4 * 2;
    for (int part = 0; part < 4; ++part) {
      float* to = &a[row + part % 2 * 8][column + part / 2 * 8];
      unpack(mine.a[part], to[0], to[1]);
    }
    for (int part = 0; part < 2; ++part) {
      const int k = column + part * 8;
      unpack(mine.b[part], b[k][row], b[k + 1][row]);
    }
    for (int part = 0; part < 4; ++part) d[row + part / 2 * 8][column + part % 2] = mine.d[part];
  }
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
  for (int i = 0; i < kWarp; ++i)
    for (int part = 0; part < 4; ++part)
      static_cast<Product*>(lanes[i])->d[part] = d[i / 4 + part / 2 * 8][i % 4 * 2 + part % 2];
}

inline void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  Product mine{d, a, b};
  g_block->collect(multiply_warp, &mine);
}

}  // namespace poster_edge
