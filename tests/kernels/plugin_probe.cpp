// Drives the TensorRT plugin as TensorRT would, from a test, on a device that the test provides.

#include <NvInferRuntime.h>

#include <cstring>

#include "chain.h"
#include "driver.h"

using namespace nvinfer1;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(ILoggerFinder* finder);

namespace {

struct Device {
  int capability = 87;
  int loads = 0;
  int refusal = 0;                // what loading gives
  unsigned long long context = 1; // number of the current context; all have one address
  int (*launch)(void const* image, unsigned const* grid, unsigned threads, unsigned shared, void* stream,
                void** arguments) = nullptr;
} device;

struct Lines final : ILogger, ILoggerFinder {
  char last[512] = "";
  void log(Severity, char const* message) noexcept override { std::strncpy(last, message, sizeof last - 1); }
  ILogger* findLogger() override { return this; }
} lines;

// A handle is the address of the cubin that it comes from.
poster_edge::Driver double_of_the_driver() {
  poster_edge::Driver d{};
  d.context = [](void** context) { return *context = &device, 0; };
  d.device = [](int* ordinal) { return *ordinal = 0; };
  d.attribute = [](int* value, int which, int) {
    *value = which == 75 ? device.capability / 10 : device.capability % 10;
    return 0;
  };
  d.load = [](void** module, void const* image) {
    return ++device.loads, *module = const_cast<void*>(image), device.refusal;
  };
  d.function = [](void** function, void* module, char const*) { return *function = module, 0; };
  d.set = [](void*, int attribute, int) { return attribute == 8 ? 0 : 1; };
  d.launch = [](void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                unsigned shared, void* stream, void** arguments, void**) {
    unsigned const grid[] = {x, y, z};
    return device.launch(function, grid, threads, shared, stream, arguments);
  };
  d.context_id = [](void*, unsigned long long* id) { return *id = device.context, 0; };
  d.error_name = [](int, char const** name) { return *name = "CUDA_ERROR_INVALID_IMAGE", 0; };
  return d;
}

IPluginV3OneBuild* build(IPluginV3* p) {
  return static_cast<IPluginV3OneBuild*>(p->getCapabilityInterface(PluginCapabilityType::kBUILD));
}

IPluginV3OneRuntime* runtime(IPluginV3* p) {
  return static_cast<IPluginV3OneRuntime*>(p->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

// Levels (batch, tokens, width of the level) and the weights, one after another.
void describe(PluginTensorDesc* to, int64_t batch, int levels, int64_t const* sizes, int64_t words) {
  for (int i = 0; i < levels; ++i) to[i] = {{3, {batch, sizes[0], sizes[1 + i]}}, DataType::kHALF, {}, 1};
  to[levels] = {{1, {words}}, DataType::kINT32, {}, 1};
}

}  // namespace

extern "C" {

void probe_device(int capability, decltype(device.launch) launch) {
  device.capability = capability;
  device.launch = launch;
  poster_edge::use_driver(double_of_the_driver());
  setLoggerFinder(&lines);
}

// Another context than any before, at the same address; loading gives a code.
void probe_context(int refusal) {
  ++device.context;
  device.refusal = refusal;
}

// TensorRT's logger, on the real driver.
void probe_listen() { setLoggerFinder(&lines); }

char const* probe_said() { return lines.last; }
int probe_loads() { return device.loads; }
int probe_pick_arch(int capability) { return poster_edge::pick_arch(capability); }

void* probe_create(int32_t const* shape, int shape_count, char const* precision, int32_t const* offsets,
                   int offset_count) {
  PluginField const fields[] = {
      {"shape", shape, PluginFieldType::kINT32, shape_count},
      {"precision", precision, PluginFieldType::kCHAR, static_cast<int32_t>(std::strlen(precision))},
      {"offsets", offsets, PluginFieldType::kINT32, offset_count},
  };
  PluginFieldCollection const given{3, fields};
  int32_t count = 0;
  auto* creator = static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
  return creator->createPlugin("node", &given, TensorRTPhase::kBUILD);
}

// A plugin made of the fields that another one serialises.
void* probe_restore(void* plugin) {
  int32_t count = 0;
  auto* creator = static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
  auto const* fields = runtime(static_cast<IPluginV3*>(plugin))->getFieldsToSerialize();
  return creator->createPlugin("node", fields, TensorRTPhase::kRUNTIME);
}

void* probe_attach(void* plugin) { return runtime(static_cast<IPluginV3*>(plugin))->attachToContext(nullptr); }
void probe_delete(void* plugin) { delete static_cast<IPluginV3*>(plugin); }

int probe_configure(void* plugin, int64_t batch, int levels, int64_t const* sizes, int64_t words) {
  PluginTensorDesc exact[poster_edge::kMaxLevels + 1];
  DynamicPluginTensorDesc given[poster_edge::kMaxLevels + 1], out{};
  describe(exact, batch, levels, sizes, words);
  for (int i = 0; i <= levels; ++i) {
    given[i] = {exact[i], exact[i].dims, exact[i].dims, exact[i].dims};
    if (i < levels) given[i].desc.dims.d[0] = -1;
  }
  auto* p = static_cast<IPluginV3*>(plugin);
  int const code = build(p)->configurePlugin(given, levels + 1, &out, 1);
  return code ? code : runtime(p)->onShapeChange(exact, levels + 1, nullptr, 1);
}

// The second level's batch is one larger than the others'.
int probe_uneven(void* plugin, int64_t batch, int levels, int64_t const* sizes, int64_t words) {
  PluginTensorDesc exact[poster_edge::kMaxLevels + 1];
  describe(exact, batch, levels, sizes, words);
  ++exact[1].dims.d[0];
  return runtime(static_cast<IPluginV3*>(plugin))->onShapeChange(exact, levels + 1, nullptr, 1);
}

int64_t probe_workspace(void* plugin, int64_t batch) {
  DynamicPluginTensorDesc given{};
  given.max = {3, {batch, 1, 1}};
  return build(static_cast<IPluginV3*>(plugin))->getWorkspaceSize(&given, 1, nullptr, 1);
}

bool probe_supports(void* plugin, int position, int type, int format) {
  DynamicPluginTensorDesc given[8] = {};
  given[position].desc.type = static_cast<DataType>(type);
  given[position].desc.format = static_cast<TensorFormat>(format);
  return build(static_cast<IPluginV3*>(plugin))->supportsFormatCombination(position, given, 4, 1);
}

// The output's dimensions are these of the inputs': the batch, and the width of the widest level.
bool probe_output_is_batch_by_width(void* plugin) {
  char marks[3];
  DimsExprs inputs[4] = {}, output{};
  inputs[0].nbDims = 3;
  for (int i = 0; i < 3; ++i) inputs[0].d[i] = reinterpret_cast<IDimensionExpr const*>(&marks[i]);
  DataType const given = DataType::kHALF;
  DataType type{};
  auto* b = build(static_cast<IPluginV3*>(plugin));
  auto& expressions = reinterpret_cast<IExprBuilder&>(marks);
  return b->getNbOutputs() == 1 && b->getOutputDataTypes(&type, 1, &given, 4) == 0 && type == given &&
         b->getOutputShapes(inputs, 4, nullptr, 0, &output, 1, expressions) == 0 && output.nbDims == 2 &&
         output.d[0] == inputs[0].d[0] && output.d[1] == inputs[0].d[2];
}

int probe_enqueue(void* plugin, int64_t batch, int levels, int64_t const* sizes, int64_t words,
                  void const* const* inputs, void* out, void* workspace, void* stream) {
  PluginTensorDesc given[poster_edge::kMaxLevels + 1];
  describe(given, batch, levels, sizes, words);
  return runtime(static_cast<IPluginV3*>(plugin))
      ->enqueue(given, nullptr, inputs, &out, workspace, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
