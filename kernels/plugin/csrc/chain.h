// The launches of all depths in order: kernels/chain.py in C++.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "table.h"

namespace poster_edge {

// Tensors of one depth's packed weights, in the order of kernels/pack.py, PackedDepth.
enum class Weight : int {
  kKv, kKvScale, kQuery, kProj, kProjScale, kProjBias, kFc1, kFc1Scale, kFc1Bias, kFc2, kFc2Scale, kFc2Bias,
  kMix, kUp, kTokenBias
};
constexpr int kWeights = 15;
// Where the tensors begin is counted in units of so many bytes.
constexpr size_t kUnit = 256;

// The kernels of one architecture, loaded into one CUDA context.
struct Functions {
  int arch;
  std::vector<void*> handles;  // one for each entry of the table; null for other architectures
};

// Bytes that a value of the activations takes.
int activation_bytes();

// Bytes of scratch memory that a batch needs.
size_t workspace_bytes(int batch);

// The architecture among the entries whose cubins run on a device, or 0; as pick_arch in kernels/aot_loader.py.
int pick_arch(int capability);

// Loads the kernels for the current CUDA context, once for each context that the process ever has.
// Null, with the reason, where that is impossible.
Functions const* load_functions(std::string& reason);

// What one forward pass reads and writes; addresses are the device's.
struct Pass {
  int batch;
  void const* levels[kMaxLevels];  // (B, T, D_i)
  unsigned char const* weights;
  int32_t const* offsets;          // kWeights for each depth, in units of kUnit
  int depths;
  unsigned char* workspace;
  void* out;                       // (B, D0)
};

// Enqueues all launches of a pass on a stream; allocates nothing and waits for nothing.
// 0, or another number with the reason.
int enqueue(Functions const& functions, Pass const& pass, void* stream, std::string& reason);

}  // namespace poster_edge
