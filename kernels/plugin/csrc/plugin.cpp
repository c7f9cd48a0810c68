// TensorRT plugin poster_edge::CrossFusionDepth: POSTER's cross-fusion, all its depths in one node.
//
// Inputs: the levels (B, T, D_i), widest first, and one INT32 tensor with the packed weights of all depths.
// Output: the widest level's first token (B, D0), which is all that POSTER reads.  Attributes (and fields of a
// serialised plugin): "shape" (N, H, R, mix, D0, D1, ...), "precision", and "offsets", where in the weights each
// tensor of each depth begins.  They must be those of the kernels that are built in.
//
// Interface: IPluginV3 of TensorRT 10.3 and later.  The library is loaded by name (trtexec --dynamicPlugins,
// IPluginRegistry::loadLibrary), is linked against neither TensorRT nor CUDA, and keeps no state but its fields.

#include <NvInferRuntime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "chain.h"

namespace poster_edge {
namespace {

using namespace nvinfer1;

constexpr char kName[] = "CrossFusionDepth";
constexpr char kNamespace[] = "poster_edge";
constexpr char kVersion[] = "1";
constexpr int kFields = 3;
constexpr int kShapeEntries = 4;  // of "shape", before the widths

ILoggerFinder* logger_finder = nullptr;

// Says what is wrong, through TensorRT's logger where there is one.
int fail(std::string const& what) {
  std::string const line = std::string(kNamespace) + "::" + kName + ": " + what;
  ILogger* logger = logger_finder ? logger_finder->findLogger() : nullptr;
  if (logger != nullptr) {
    logger->log(ILogger::Severity::kERROR, line.c_str());
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  return -1;
}

DataType activation_type() {
  if (std::strcmp(kPrecision, "bf16") == 0) return DataType::kBF16;
  return std::strcmp(kPrecision, "fp32") == 0 ? DataType::kFLOAT : DataType::kHALF;
}

std::vector<int32_t> shape_field() {
  std::vector<int32_t> values{kShape.per_stream, kShape.heads, kShape.ratio, kShape.mix};
  values.insert(values.end(), kShape.dims, kShape.dims + kShape.levels);
  return values;
}

std::string in_words(std::vector<int32_t> const& values) {
  std::string text;
  for (int32_t v : values) text += (text.empty() ? "" : " ") + std::to_string(v);
  return text.empty() ? "nothing" : text;
}

// Why a batch of levels (B, T, D_i) is none of ours, or an empty string; -1 stands for a size that is not known yet.
std::string misfit(int level, Dims const& dims) {
  int64_t const expected[] = {-1, kShape.tokens(), kShape.dims[level]};
  bool fits = dims.nbDims == 3;
  for (int i = 1; i < 3 && fits; ++i) fits = dims.d[i] == expected[i] || dims.d[i] == -1;
  if (!fits) {
    return "level " + std::to_string(level) + " is not (B, " + std::to_string(expected[1]) + ", " +
           std::to_string(expected[2]) + ")";
  }
  if (dims.d[0] > kLargestBatch) {
    return "a batch of " + std::to_string(dims.d[0]) + " is too large (at most " + std::to_string(kLargestBatch) + ")";
  }
  return "";
}

class Plugin final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
 public:
  explicit Plugin(std::vector<int32_t> offsets) : shape_(shape_field()), offsets_(std::move(offsets)) {}
  Plugin(Plugin const& other) : Plugin(other.offsets_) {}

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  IPluginV3* clone() noexcept override { return new (std::nothrow) Plugin(*this); }

  char const* getPluginName() const noexcept override { return kName; }
  char const* getPluginVersion() const noexcept override { return kVersion; }
  char const* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override { return 1; }

  int32_t getOutputDataTypes(DataType* outputs, int32_t, DataType const* inputs, int32_t) const noexcept override {
    outputs[0] = inputs[0];
    return 0;
  }

  int32_t getOutputShapes(DimsExprs const* inputs, int32_t count, DimsExprs const*, int32_t, DimsExprs* outputs,
                          int32_t, IExprBuilder&) noexcept override {
    if (count != kShape.levels + 1) return wrong_count(count);
    // B x T x D0 -> B x D0
    outputs[0].nbDims = 2;
    outputs[0].d[0] = inputs[0].d[0];
    outputs[0].d[1] = inputs[0].d[2];
    return 0;
  }

  bool supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const* tensors, int32_t,
                                 int32_t) noexcept override {
    PluginTensorDesc const& t = tensors[position].desc;
    DataType const expected = position == kShape.levels ? DataType::kINT32 : activation_type();
    return t.format == TensorFormat::kLINEAR && t.type == expected;
  }

  int32_t configurePlugin(DynamicPluginTensorDesc const* inputs, int32_t count, DynamicPluginTensorDesc const*,
                          int32_t) noexcept override {
    if (count != kShape.levels + 1) return wrong_count(count);
    for (int i = 0; i < kShape.levels; ++i) {
      for (Dims const& dims : {inputs[i].desc.dims, inputs[i].max}) {
        std::string const reason = misfit(i, dims);
        if (!reason.empty()) return fail(reason);
      }
    }
    return check_weights(inputs[kShape.levels].desc.dims);
  }

  size_t getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t, DynamicPluginTensorDesc const*,
                          int32_t) const noexcept override {
    return workspace_bytes(static_cast<int>(inputs[0].max.d[0]));
  }

  int32_t onShapeChange(PluginTensorDesc const* inputs, int32_t count, PluginTensorDesc const*,
                        int32_t) noexcept override {
    if (count != kShape.levels + 1) return wrong_count(count);
    for (int i = 0; i < kShape.levels; ++i) {
      std::string const reason = misfit(i, inputs[i].dims);
      if (!reason.empty()) return fail(reason);
      if (inputs[i].dims.d[0] != inputs[0].dims.d[0]) {
        return fail("the levels are batches of " + std::to_string(inputs[0].dims.d[0]) + " and of " +
                    std::to_string(inputs[i].dims.d[0]));
      }
    }
    return check_weights(inputs[kShape.levels].dims);
  }

  int32_t enqueue(PluginTensorDesc const* tensors, PluginTensorDesc const*, void const* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    std::string reason;
    Functions const* functions = load_functions(reason);
    if (functions == nullptr) return fail(reason);
    Pass pass{};
    pass.batch = static_cast<int>(tensors[0].dims.d[0]);
    for (int i = 0; i < kShape.levels; ++i) pass.levels[i] = inputs[i];
    pass.weights = static_cast<unsigned char const*>(inputs[kShape.levels]);
    pass.offsets = offsets_.data();
    pass.depths = static_cast<int>(offsets_.size()) / kWeights;
    pass.workspace = static_cast<unsigned char*>(workspace);
    pass.out = outputs[0];
    return poster_edge::enqueue(*functions, pass, stream, reason) ? fail(reason) : 0;
  }

  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override {
    // A context is made where there is a GPU; the kernels are loaded now, since a CUDA graph that is being
    // recorded cannot load any.  What goes wrong is said, and again where it matters, in enqueue.
    std::string reason;
    if (load_functions(reason) == nullptr) fail(reason);
    return clone();
  }

  PluginFieldCollection const* getFieldsToSerialize() noexcept override {
    fields_[0] = {"shape", shape_.data(), PluginFieldType::kINT32, static_cast<int32_t>(shape_.size())};
    fields_[1] = {"precision", kPrecision, PluginFieldType::kCHAR, static_cast<int32_t>(std::strlen(kPrecision))};
    fields_[2] = {"offsets", offsets_.data(), PluginFieldType::kINT32, static_cast<int32_t>(offsets_.size())};
    collection_.nbFields = kFields;
    collection_.fields = fields_;
    return &collection_;
  }

 private:
  int32_t wrong_count(int32_t count) const {
    return fail(std::to_string(count) + " inputs; " + std::to_string(kShape.levels) + " levels and the weights are " +
                "expected");
  }

  // The weights must reach as far as the offsets say; the last tensor holds a float at least.
  int32_t check_weights(Dims const& dims) const {
    int32_t largest = 0;
    for (int32_t offset : offsets_) largest = offset > largest ? offset : largest;
    int64_t const bytes = dims.nbDims == 1 ? 4 * dims.d[0] : 0;
    if (bytes <= static_cast<int64_t>(kUnit) * largest) return fail("the weights are cut short");
    return 0;
  }

  std::vector<int32_t> shape_, offsets_;
  PluginField fields_[kFields];
  PluginFieldCollection collection_{};
};

PluginField const* find_field(PluginFieldCollection const& fields, char const* name, PluginFieldType type) {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    PluginField const& f = fields.fields[i];
    if (std::strcmp(f.name, name) == 0 && f.type == type) return &f;
  }
  return nullptr;
}

std::vector<int32_t> numbers(PluginFieldCollection const& fields, char const* name) {
  PluginField const* f = find_field(fields, name, PluginFieldType::kINT32);
  if (f == nullptr) return {};
  auto const* data = static_cast<int32_t const*>(f->data);
  return std::vector<int32_t>(data, data + f->length);
}

class Creator final : public IPluginCreatorV3One {
 public:
  Creator() {
    fields_[0] = {"shape", nullptr, PluginFieldType::kINT32, kShapeEntries + kShape.levels};
    fields_[1] = {"precision", nullptr, PluginFieldType::kCHAR, 1};
    fields_[2] = {"offsets", nullptr, PluginFieldType::kINT32, kWeights};
    collection_.nbFields = kFields;
    collection_.fields = fields_;
  }

  IPluginV3* createPlugin(char const*, PluginFieldCollection const* given, TensorRTPhase) noexcept override {
    std::vector<int32_t> const shape = numbers(*given, "shape"), expected = shape_field();
    if (shape != expected) {
      return refuse("its kernels are for N, H, R, mix, widths " + in_words(expected) + "; the node has " +
                    in_words(shape));
    }
    PluginField const* text = find_field(*given, "precision", PluginFieldType::kCHAR);
    std::string precision(text ? static_cast<char const*>(text->data) : "", text ? text->length : 0);
    // A string may come with its end.
    precision = precision.c_str();
    if (precision != kPrecision) {
      return refuse(std::string("its kernels are for ") + kPrecision + "; the node has '" + precision + "'");
    }
    std::vector<int32_t> offsets = numbers(*given, "offsets");
    bool valid = !offsets.empty() && offsets.size() % kWeights == 0;
    for (int32_t offset : offsets) valid = valid && offset >= 0;
    if (!valid) return refuse("'offsets' must hold " + std::to_string(kWeights) + " numbers for each depth");
    return new (std::nothrow) Plugin(std::move(offsets));
  }

  PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }
  char const* getPluginName() const noexcept override { return kName; }
  char const* getPluginVersion() const noexcept override { return kVersion; }
  char const* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  static IPluginV3* refuse(std::string const& why) {
    fail(why);
    return nullptr;
  }

  PluginField fields_[kFields];
  PluginFieldCollection collection_{};
};

}  // namespace
}  // namespace poster_edge

#define POSTER_EDGE_API extern "C" __attribute__((visibility("default")))

// What TensorRT looks for in a library of plugins.
POSTER_EDGE_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static poster_edge::Creator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

// What the kernels in here compute in, for whoever must know before TensorRT parses a graph.
POSTER_EDGE_API char const* posterEdgePluginPrecision() { return poster_edge::kPrecision; }

POSTER_EDGE_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { poster_edge::logger_finder = finder; }
