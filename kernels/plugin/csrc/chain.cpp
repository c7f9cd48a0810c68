#include "chain.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "driver.h"

namespace poster_edge {
namespace {

// CUdevice_attribute and CUfunction_attribute of cuda.h.
constexpr int kCapabilityMajor = 75, kCapabilityMinor = 76, kMaxDynamicShared = 8;
// More must be asked for.
constexpr unsigned kSharedDefault = 48u << 10;
constexpr size_t kAlignment = 256;
// Of every address that a kernel is given: it reads 16 bytes at once.
constexpr uintptr_t kAccess = 16;
constexpr int kMaxArguments = 16;
constexpr int kThreadsOfWarp = 32;

// Scratch tensors, in the order in which they lie in the workspace.
enum class Scratch : int { kX, kAttended, kY, kZ, kHidden, kPartials, kYPartials };
constexpr int kScratches = 7;

size_t scratch_bytes(Scratch which, int batch) {
  size_t const rows = static_cast<size_t>(batch) * kShape.tokens();
  size_t const row = static_cast<size_t>(kShape.width()) * activation_bytes();
  switch (which) {
    case Scratch::kHidden: return rows * row * kShape.ratio;
    case Scratch::kPartials:
    case Scratch::kYPartials: return rows * kShape.levels * kShape.heads * 2 * sizeof(float);
    default: return rows * row;
  }
}

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bool tegra(int arch) { return arch == 87 || arch == 110; }

// Addresses of one pass; a kernel's arguments are picked from them.
struct Addresses {
  void const* scratch[kScratches];
  Pass const* pass;
  int32_t const* offsets;  // of the current depth

  void const* operator[](Scratch which) const { return scratch[static_cast<int>(which)]; }
  void const* operator[](Weight which) const { return pass->weights + kUnit * offsets[static_cast<int>(which)]; }
};

// The arguments of one launch, as cuLaunchKernel reads them.
class Arguments {
 public:
  void add(void const* address) {
    values_[count_] = address;
    pointers_[count_] = &values_[count_];
    ++count_;
  }
  void add(int const* number) { pointers_[count_++] = const_cast<int*>(number); }
  void** data() { return pointers_; }

 private:
  void const* values_[kMaxArguments];
  void* pointers_[kMaxArguments];
  int count_ = 0;
};

// ARGUMENTS of kernels/launch.py.
void fill(Arguments& to, Kernel kernel, bool last, Addresses const& at) {
  Pass const& pass = *at.pass;
  switch (kernel) {
    case Kernel::kEnter:
      // Levels that do not exist are never read.
      for (int i = 0; i < kMaxLevels; ++i) to.add(pass.levels[i < kShape.levels ? i : kShape.levels - 1]);
      to.add(at[Scratch::kX]);
      to.add(at[Scratch::kPartials]);
      to.add(&pass.batch);
      break;
    case Kernel::kAttend:
      to.add(at[Scratch::kX]);
      to.add(at[Scratch::kPartials]);
      to.add(at[Weight::kKv]);
      to.add(at[Weight::kKvScale]);
      to.add(at[Weight::kQuery]);
      to.add(at[Scratch::kAttended]);
      break;
    case Kernel::kProject:
      to.add(at[Scratch::kX]);
      to.add(at[Scratch::kAttended]);
      to.add(at[Weight::kProj]);
      to.add(at[Weight::kProjScale]);
      to.add(at[Weight::kProjBias]);
      to.add(at[Scratch::kY]);
      to.add(at[Scratch::kYPartials]);
      to.add(&pass.batch);
      break;
    case Kernel::kExpand:
      to.add(at[Scratch::kY]);
      to.add(at[Scratch::kYPartials]);
      to.add(at[Weight::kFc1]);
      to.add(at[Weight::kFc1Scale]);
      to.add(at[Weight::kFc1Bias]);
      to.add(at[Scratch::kHidden]);
      to.add(&pass.batch);
      break;
    case Kernel::kContract:
      to.add(at[Scratch::kY]);
      to.add(at[Scratch::kHidden]);
      to.add(at[Weight::kFc2]);
      to.add(at[Weight::kFc2Scale]);
      to.add(at[Weight::kFc2Bias]);
      to.add(at[Scratch::kZ]);
      to.add(&pass.batch);
      break;
    case Kernel::kMix:
      to.add(at[Scratch::kZ]);
      to.add(at[Weight::kMix]);
      to.add(at[Weight::kUp]);
      to.add(at[Weight::kTokenBias]);
      to.add(last ? pass.out : at[Scratch::kX]);
      to.add(at[Scratch::kPartials]);
      break;
  }
}

// The driver's word for a result, "CUDA_ERROR_INVALID_IMAGE (200)".
std::string in_words(int code) {
  char const* name = nullptr;
  if (driver().error_name != nullptr) driver().error_name(code, &name);
  return std::string(name != nullptr ? name : "CUDA error") + " (" + std::to_string(code) + ")";
}

// Index of the entry that serves, or -1.
int find_entry(int arch, Kernel kernel, bool last, int batch) {
  for (int i = 0; i < kEntryCount; ++i) {
    Entry const& e = kEntries[i];
    if (e.arch == arch && e.kernel == kernel && e.last == last && e.first_batch <= batch && batch <= e.last_batch) {
      return i;
    }
  }
  return -1;
}

int launch(Functions const& functions, Kernel kernel, bool last, Addresses const& at, void* stream,
           std::string& reason) {
  int const batch = at.pass->batch, index = find_entry(functions.arch, kernel, last, batch);
  if (index < 0) {
    reason = "no kernel is built in for a batch of " + std::to_string(batch);
    return -1;
  }
  Entry const& e = kEntries[index];
  Arguments arguments;
  fill(arguments, kernel, last, at);
  for (int i = 0; i < e.trailing; ++i) arguments.add(static_cast<void const*>(nullptr));
  // B tiles of rows, or one program for each sample
  unsigned const grid_y = e.tile ? static_cast<unsigned>((batch * e.rows + e.tile - 1) / e.tile) : batch;
  int const code = driver().launch(functions.handles[index], e.grid_x, grid_y, 1, kThreadsOfWarp * e.warps, 1, 1,
                                   e.shared, stream, arguments.data(), nullptr);
  if (code) reason = std::string("the driver refuses to launch ") + e.name + ": " + in_words(code);
  return code;
}

// An access beside its alignment would be an error of the device, and the end of the whole context.
bool fits(Pass const& pass) {
  uintptr_t all = reinterpret_cast<uintptr_t>(pass.weights) | reinterpret_cast<uintptr_t>(pass.workspace) |
                  reinterpret_cast<uintptr_t>(pass.out);
  for (int i = 0; i < kShape.levels; ++i) all |= reinterpret_cast<uintptr_t>(pass.levels[i]);
  return all % kAccess == 0;
}

int capability() {
  int device = 0, parts[2] = {0, 0};
  if (driver().device(&device) || driver().attribute(&parts[0], kCapabilityMajor, device) ||
      driver().attribute(&parts[1], kCapabilityMinor, device)) {
    return 0;
  }
  return 10 * parts[0] + parts[1];
}

// 0, or the driver's code.
int load_entry(Entry const& e, void*& handle) {
  void* module = nullptr;
  int code = driver().load(&module, e.image);
  if (code == 0) code = driver().function(&handle, module, e.name);
  if (code == 0 && e.shared > kSharedDefault) {
    code = driver().set(handle, kMaxDynamicShared, static_cast<int>(e.shared));
  }
  return code;
}

std::unique_ptr<Functions> load_all(std::string& reason) {
  int const device = capability();
  auto found = std::make_unique<Functions>();
  found->arch = pick_arch(device);
  if (found->arch == 0) {
    reason = "the device is sm_" + std::to_string(device) + ", for which no kernels are built in: poster-edge kernels "
             "build --arch sm_" + std::to_string(device);
    return nullptr;
  }
  found->handles.resize(kEntryCount, nullptr);
  for (int i = 0; i < kEntryCount; ++i) {
    if (kEntries[i].arch != found->arch) continue;
    if (int const code = load_entry(kEntries[i], found->handles[i])) {
      reason = std::string("the driver does not take ") + kEntries[i].name + " for sm_" +
               std::to_string(found->arch) + ": " + in_words(code);
      return nullptr;
    }
  }
  return found;
}

}  // namespace

int activation_bytes() { return std::strcmp(kPrecision, "fp32") == 0 ? 4 : 2; }

size_t workspace_bytes(int batch) {
  size_t sum = 0;
  for (int i = 0; i < kScratches; ++i) sum += aligned(scratch_bytes(static_cast<Scratch>(i), batch));
  return sum;
}

int pick_arch(int capability) {
  int best = 0;
  for (int i = 0; i < kEntryCount; ++i) {
    int const arch = kEntries[i].arch;
    if (arch == capability) return arch;
    // From 9.0 on a cubin runs on its own architecture only, and a Jetson shares none with a desktop.
    bool const older = capability < 90 && !tegra(capability) && !tegra(arch) && arch / 10 == capability / 10 &&
                       arch < capability;
    if (older && arch > best) best = arch;
  }
  return best;
}

Functions const* load_functions(std::string& reason) {
  static std::mutex mutex;
  // By number too: a context may be given the address of one that is gone, and with it all that was loaded there.
  static std::map<std::pair<void*, unsigned long long>, std::unique_ptr<Functions>> loaded;
  void* context = nullptr;
  unsigned long long id = 0;
  if (driver().launch == nullptr || driver().context(&context) || context == nullptr) {
    reason = "no NVIDIA driver, or no CUDA context";
    return nullptr;
  }
  if (driver().context_id != nullptr && driver().context_id(context, &id)) id = 0;
  std::lock_guard<std::mutex> const lock(mutex);
  std::unique_ptr<Functions>& own = loaded[{context, id}];
  if (!own) own = load_all(reason);
  return own.get();
}

int enqueue(Functions const& functions, Pass const& pass, void* stream, std::string& reason) {
  if (pass.batch == 0) return 0;
  if (!fits(pass)) {
    reason = "a tensor begins at an address that is no multiple of " + std::to_string(kAccess);
    return -1;
  }
  Addresses at{};
  at.pass = &pass;
  unsigned char* next = pass.workspace;
  for (int i = 0; i < kScratches; ++i) {
    at.scratch[i] = next;
    next += aligned(scratch_bytes(static_cast<Scratch>(i), pass.batch));
  }
  at.offsets = pass.offsets;
  constexpr Kernel kDepth[] = {Kernel::kAttend, Kernel::kProject, Kernel::kExpand, Kernel::kContract};
  int code = launch(functions, Kernel::kEnter, false, at, stream, reason);
  for (int depth = 0; depth < pass.depths && code == 0; ++depth, at.offsets += kWeights) {
    for (Kernel kernel : kDepth) {
      if (code == 0) code = launch(functions, kernel, false, at, stream, reason);
    }
    if (code == 0) code = launch(functions, Kernel::kMix, depth + 1 == pass.depths, at, stream, reason);
  }
  return code;
}

}  // namespace poster_edge
