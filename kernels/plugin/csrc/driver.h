// The few functions of NVIDIA's driver that launch kernels, found at run time: nothing is linked against CUDA.

#pragma once

#include <cstddef>

namespace poster_edge {

// As in cuda.h; handles are pointers, results are 0 for success.
struct Driver {
  int (*context)(void** context);
  int (*device)(int* device);
  int (*attribute)(int* value, int attribute, int device);
  int (*load)(void** module, void const* image);
  int (*function)(void** function, void* module, char const* name);
  int (*set)(void* function, int attribute, int value);
  int (*launch)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                unsigned block_z, unsigned shared, void* stream, void** arguments, void** extra);
  // May be null: drivers before CUDA 12 have no such function.
  int (*context_id)(void* context, unsigned long long* id);
  int (*error_name)(int code, char const** name);
};

// The driver of this process; its functions are null where there is none.
Driver const& driver();

// Takes another in its place; for tests.
void use_driver(Driver const& other);

}  // namespace poster_edge
