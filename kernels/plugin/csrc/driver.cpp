#include "driver.h"

#include <dlfcn.h>

namespace poster_edge {
namespace {

template <typename Function>
void find(void* library, char const* name, Function& into) {
  into = reinterpret_cast<Function>(dlsym(library, name));
}

Driver load() {
  Driver found{};
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return found;
  find(library, "cuCtxGetCurrent", found.context);
  find(library, "cuCtxGetDevice", found.device);
  find(library, "cuDeviceGetAttribute", found.attribute);
  find(library, "cuModuleLoadData", found.load);
  find(library, "cuModuleGetFunction", found.function);
  find(library, "cuFuncSetAttribute", found.set);
  find(library, "cuLaunchKernel", found.launch);
  find(library, "cuCtxGetId", found.context_id);
  find(library, "cuGetErrorName", found.error_name);
  bool const whole = found.context && found.device && found.attribute && found.load && found.function && found.set &&
                     found.launch;
  return whole ? found : Driver{};
}

Driver& current() {
  static Driver found = load();
  return found;
}

}  // namespace

Driver const& driver() { return current(); }

void use_driver(Driver const& other) { current() = other; }

}  // namespace poster_edge
