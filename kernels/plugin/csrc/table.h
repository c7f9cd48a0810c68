// What the generated table says about the kernels that are built in; kernels/plugin/embed.py writes it.

#pragma once

#include <cstddef>

namespace poster_edge {

enum class Kernel : int { kEnter, kAttend, kProject, kExpand, kContract, kMix };

constexpr int kMaxLevels = 3;

// Sizes of a depth; kernels/shape.py has the same.
struct Shape {
  int per_stream;        // N, tokens of one stream
  int heads;             // H
  int ratio;             // R, hidden width of the MLPs over D
  int mix;               // whether a block ends with the token-mixing convolution
  int levels;            // L
  int dims[kMaxLevels];  // D of each level, widest first

  constexpr int tokens() const { return 2 * per_stream; }
  constexpr int width() const {
    int sum = 0;
    for (int i = 0; i < levels; ++i) sum += dims[i];
    return sum;
  }
};

// One compiled kernel, for one architecture and a range of batches.
struct Entry {
  Kernel kernel;
  int arch;                    // 87 for sm_87
  bool last;                   // of mix: the one for the last depth
  int first_batch;             // smallest and largest batch that it is planned for
  int last_batch;
  unsigned grid_x;             // programs in x
  int rows;                    // rows of a sample and of a tile: programs in y are the tiles of all samples;
  int tile;                    // 0 and 0: one for each sample
  unsigned warps;              // of a program
  unsigned shared;             // dynamic shared memory, bytes
  int trailing;                // pointers that follow the arguments and are NULL
  char const* name;            // of the function in the image
  unsigned char const* image;  // a cubin
};

// Of the generated table.
extern Shape const kShape;
extern char const* const kPrecision;   // "fp16", "bf16", "w8a16" or "fp32"
extern int const kLargestBatch;
extern Entry const kEntries[];
extern int const kEntryCount;

}  // namespace poster_edge
