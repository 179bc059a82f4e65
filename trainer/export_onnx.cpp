// SPDX-License-Identifier: Apache-2.0
#include "trainer/export_onnx.h"

#include <fmt/format.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/utils.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace trainer {

namespace {

namespace jit = torch::jit;
using jit::Node;
using jit::Value;
using Shape = OnnxFile::Shape;

bool is_copy(const Node* node) {
  return node->kind() == c10::aten::contiguous || node->kind() == c10::aten::clone ||
         node->kind() == c10::aten::detach;
}

bool is_number(const c10::IValue& value) {
  return value.isScalar() || (value.isTensor() && value.toTensor().dim() == 0);
}

class GraphWriter {
 public:
  GraphWriter(OnnxFile& file, const TracedModel& traced, BatchSize batch_size)
      : file_(file), graph_(*traced.graph), batch_size_(batch_size) {
    constants_[graph_.inputs().at(0)] = traced.module._ivalue();
    batch_ = shape_of(graph_.inputs().at(1)).at(0);
  }

  void write() {
    file_.add_input("images", outer_shape(graph_.inputs().at(1)));
    names_[graph_.inputs().at(1)] = "images";
    const Value* output = graph_.outputs().at(0);
    while (is_copy(output->node())) output = output->node()->input(0);
    names_[output] = "output0";
    std::vector<const Node*> computing;
    for (const Node* node : graph_.nodes()) {
      if (!read_constant(node)) computing.push_back(node);
    }
    for (const Node* node : computing) {
      if (!merged_.contains(node)) add(node);
    }
    file_.add_output("output0", outer_shape(graph_.outputs().at(0)));
  }

 private:
  using Handler = void (GraphWriter::*)(const Node*);

  void add(const Node* node);
  static const std::map<std::string_view, Handler>& handlers();

  // What is known while writing: weights, numbers, lists.
  bool read_constant(const Node* node);
  const c10::IValue* constant(const Value* value) const;
  std::int64_t integer(const Node* node, std::size_t input) const;
  Shape integers(const Node* node, std::size_t input) const;
  Shape height_and_width(const Node* node, std::size_t input) const;
  torch::Tensor tensor(const Node* node, std::size_t input) const;
  std::size_t axis(const Node* node, std::size_t input) const;

  // Names in the file. A constant that a node reads is written where it is first read.
  std::string name(const Value* value);
  std::string fresh(const std::string& what) { return fmt::format("{}_{}", what, ++count_); }
  std::string write_constant(const std::string& name, const torch::Tensor& value);
  std::string write_list(const Shape& values);

  // One node whose output is that of the recorded one.
  void emit(const std::string& type, const Node* node, const OnnxFile::Names& inputs,
            const OnnxFile::Attributes& attributes = {});
  std::string emit_between(const std::string& type, const OnnxFile::Names& inputs,
                           const OnnxFile::Attributes& attributes = {});
  void emit_slice(const Value* output, const std::string& input, std::size_t axis,
                  std::int64_t start, std::int64_t end, std::int64_t step = 1);
  void emit_reshape(const Value* output, const std::string& input, const Shape& before);

  Shape outer_shape(const Value* value) const;

  // One kind of operator each.
  void same(const Node* node);
  void convolution(const Node* node);
  void batch_norm(const Node* node);
  void silu(const Node* node);
  void sigmoid(const Node* node) { emit("Sigmoid", node, {name(node->input(0))}); }
  void add_or_sub(const Node* node);
  void multiply(const Node* node) { elementwise("Mul", node); }
  void divide(const Node* node) { elementwise("Div", node); }
  void elementwise(const std::string& type, const Node* node);
  void concatenate(const Node* node);
  void chunk(const Node* node);
  void split(const Node* node);
  void unpack(const Node* node);
  void narrow(const Node* node);
  void slice(const Node* node);
  void select(const Node* node);
  void max_pool(const Node* node);
  void upsample(const Node* node);
  void reshape(const Node* node);
  void transpose(const Node* node);
  void permute(const Node* node);
  void softmax(const Node* node);
  void matmul(const Node* node);

  OnnxFile& file_;
  jit::Graph& graph_;
  BatchSize batch_size_;
  std::int64_t batch_ = 1;
  int count_ = 0;
  std::unordered_map<const Value*, c10::IValue> constants_;
  std::unordered_map<const Value*, std::string> names_, attribute_paths_;
  std::unordered_map<const Value*, std::vector<const Value*>> lists_;  // Of tensors.
  std::unordered_set<const Node*> merged_;                             // Into an earlier one.
  // Of split and chunk, until they are unpacked: where each part ends, along which axis.
  struct Parts {
    std::string input;
    std::size_t axis = 0;
    std::vector<std::int64_t> ends;
  };
  std::unordered_map<const Value*, Parts> parts_;
};

const std::map<std::string_view, GraphWriter::Handler>& GraphWriter::handlers() {
  using Writer = GraphWriter;
  static const std::map<std::string_view, Handler> kHandlers = {
      {"aten::_convolution", &Writer::convolution},
      {"aten::conv2d", &Writer::convolution},
      {"aten::batch_norm", &Writer::batch_norm},
      {"aten::silu", &Writer::silu},
      {"aten::sigmoid", &Writer::sigmoid},
      {"aten::add", &Writer::add_or_sub},
      {"aten::sub", &Writer::add_or_sub},
      {"aten::mul", &Writer::multiply},
      {"aten::div", &Writer::divide},
      {"aten::cat", &Writer::concatenate},
      {"aten::chunk", &Writer::chunk},
      {"aten::split", &Writer::split},
      {"aten::split_with_sizes", &Writer::split},
      {"prim::ListUnpack", &Writer::unpack},
      {"aten::narrow", &Writer::narrow},
      {"aten::slice", &Writer::slice},
      {"aten::select", &Writer::select},
      {"aten::max_pool2d", &Writer::max_pool},
      {"aten::upsample_nearest2d", &Writer::upsample},
      {"aten::flatten", &Writer::reshape},
      {"aten::reshape", &Writer::reshape},
      {"aten::squeeze", &Writer::reshape},
      {"aten::unsqueeze", &Writer::reshape},
      {"aten::view", &Writer::reshape},
      {"aten::permute", &Writer::permute},
      {"aten::transpose", &Writer::transpose},
      {"aten::softmax", &Writer::softmax},
      {"aten::bmm", &Writer::matmul},
      {"aten::matmul", &Writer::matmul},
      {"aten::clone", &Writer::same},
      {"aten::contiguous", &Writer::same},
      {"aten::detach", &Writer::same},
  };
  return kHandlers;
}

void GraphWriter::add(const Node* node) {
  std::string kind = node->kind().toQualString();
  if (kind.ends_with('_')) kind.pop_back();  // In place; the record has values all the same.
  const auto handler = handlers().find(kind);
  if (handler == handlers().end()) {
    throw std::runtime_error(
        fmt::format("onnx: the operator {} has no counterpart here. Export as torchscript.", kind));
  }
  (this->*handler->second)(node);
}

// True where nothing is to be written: the node's outputs are known.
bool GraphWriter::read_constant(const Node* node) {
  if (node->kind() == c10::prim::Constant) {
    constants_[node->output()] = *jit::toIValue(node->output());
    return true;
  }
  if (node->kind() == c10::prim::GetAttr) {
    const std::string member = node->s(c10::attr::name);
    constants_[node->output()] = constants_.at(node->input()).toObject()->getAttr(member);
    const auto path = attribute_paths_.find(node->input());
    attribute_paths_[node->output()] =
        path == attribute_paths_.end() ? member : path->second + "." + member;
    return true;
  }
  if (node->kind() != c10::prim::ListConstruct) return false;
  if (node->output()->type()->isSubtypeOf(*c10::ListType::ofTensors())) {
    lists_[node->output()].assign(node->inputs().begin(), node->inputs().end());
    return true;
  }
  std::vector<std::int64_t> values;
  for (const Value* input : node->inputs()) {
    const c10::IValue* known = constant(input);
    if (known == nullptr || !known->isInt()) return true;  // Who reads it says so.
    values.push_back(known->toInt());
  }
  constants_[node->output()] = values;
  return true;
}

const c10::IValue* GraphWriter::constant(const Value* value) const {
  const auto found = constants_.find(value);
  return found == constants_.end() ? nullptr : &found->second;
}

std::int64_t GraphWriter::integer(const Node* node, std::size_t input) const {
  const c10::IValue* known = constant(node->input(input));
  if (known == nullptr || !(known->isInt() || known->isBool())) {
    throw std::runtime_error(fmt::format("onnx: argument {} of {} is not a constant integer.",
                                         input, node->kind().toQualString()));
  }
  return known->isBool() ? static_cast<std::int64_t>(known->toBool()) : known->toInt();
}

Shape GraphWriter::integers(const Node* node, std::size_t input) const {
  const c10::IValue* known = constant(node->input(input));
  if (known == nullptr || !known->isIntList()) {
    throw std::runtime_error(fmt::format("onnx: argument {} of {} is not a constant list.", input,
                                         node->kind().toQualString()));
  }
  return known->toIntVector();
}

// One number stands for both.
Shape GraphWriter::height_and_width(const Node* node, std::size_t input) const {
  Shape values = integers(node, input);
  if (values.size() == 1) values.push_back(values.front());
  return values;
}

// Undefined where the argument is None.
torch::Tensor GraphWriter::tensor(const Node* node, std::size_t input) const {
  const c10::IValue* known = constant(node->input(input));
  if (known == nullptr || !(known->isTensor() || known->isNone())) {
    throw std::runtime_error(fmt::format("onnx: argument {} of {} is not a constant tensor.", input,
                                         node->kind().toQualString()));
  }
  return known->isNone() ? torch::Tensor() : known->toTensor();
}

// Counted from the front.
std::size_t GraphWriter::axis(const Node* node, std::size_t input) const {
  const std::int64_t given = integer(node, input);
  const auto rank = static_cast<std::int64_t>(shape_of(node->input(0)).size());
  return static_cast<std::size_t>(given < 0 ? given + rank : given);
}

std::string GraphWriter::name(const Value* value) {
  const auto found = names_.find(value);
  if (found != names_.end()) return found->second;
  if (const c10::IValue* known = constant(value)) {
    const auto path = attribute_paths_.find(value);
    const std::string label = path == attribute_paths_.end() ? fresh("constant") : path->second;
    const torch::Tensor values =
        known->isTensor() ? known->toTensor() : torch::scalar_tensor(known->toScalar());
    return names_[value] = write_constant(label, values);
  }
  return names_[value] = fresh("value");
}

std::string GraphWriter::write_constant(const std::string& name, const torch::Tensor& value) {
  const torch::Tensor plain = value.detach().to(torch::kCPU, torch::kFloat).contiguous();
  file_.add_constant(name, plain.sizes().vec(), plain.data_ptr<float>());
  return name;
}

std::string GraphWriter::write_list(const Shape& values) {
  const std::string name = fresh("list");
  file_.add_constant(name, values);
  return name;
}

void GraphWriter::emit(const std::string& type, const Node* node, const OnnxFile::Names& inputs,
                       const OnnxFile::Attributes& attributes) {
  file_.add_node(type, fresh(type), inputs, {name(node->output())}, attributes);
}

std::string GraphWriter::emit_between(const std::string& type, const OnnxFile::Names& inputs,
                                      const OnnxFile::Attributes& attributes) {
  const std::string output = fresh("value");
  file_.add_node(type, fresh(type), inputs, {output}, attributes);
  return output;
}

void GraphWriter::emit_slice(const Value* output, const std::string& input, std::size_t axis,
                             std::int64_t start, std::int64_t end, std::int64_t step) {
  const OnnxFile::Names inputs = {input, write_list({start}), write_list({end}),
                                  write_list({static_cast<std::int64_t>(axis)}),
                                  write_list({step})};
  file_.add_node("Slice", fresh("Slice"), inputs, {name(output)});
}

// To the shape that was recorded.
void GraphWriter::emit_reshape(const Value* output, const std::string& input, const Shape& before) {
  constexpr std::int64_t kAsBefore = 0;
  Shape after = shape_of(output);
  if (batch_size_ == BatchSize::kFree && !after.empty() && !before.empty() && after[0] == batch_ &&
      before[0] == batch_) {
    after[0] = kAsBefore;
  }
  file_.add_node("Reshape", fresh("Reshape"), {input, write_list(after)}, {name(output)});
}

Shape GraphWriter::outer_shape(const Value* value) const {
  Shape shape = shape_of(value);
  if (batch_size_ == BatchSize::kFree) shape.at(0) = -1;
  return shape;
}

// The output is the input under another name.
void GraphWriter::same(const Node* node) {
  names_[node->output()] = name(node->input(0));
}

// With the batch norm that alone reads it, if there is one.
void GraphWriter::convolution(const Node* node) {
  constexpr std::size_t kTransposed = 6, kGroupsOfPlain = 6, kGroups = 8;
  const bool is_plain = node->kind() == c10::aten::conv2d;
  if (!is_plain && integer(node, kTransposed) != 0) {
    throw std::runtime_error("onnx: a transposed convolution has no counterpart here.");
  }
  torch::Tensor weight = tensor(node, 1), bias = tensor(node, 2);
  const Value* output = node->output();
  const Node* reader = output->uses().size() == 1 ? output->uses().front().user : nullptr;
  if (reader != nullptr && reader->kind() == c10::aten::batch_norm) {
    const double epsilon = constant(reader->input(7))->toDouble();
    const torch::Tensor scale = tensor(reader, 1) / (tensor(reader, 4) + epsilon).sqrt();
    const torch::Tensor mean = tensor(reader, 3);
    bias = tensor(reader, 2) + ((bias.defined() ? bias : torch::zeros_like(mean)) - mean) * scale;
    weight = weight * scale.view({-1, 1, 1, 1});
    output = reader->output();
    merged_.insert(reader);
  }
  const std::string path = attribute_paths_.at(node->input(1));  // "model.0.conv.weight"
  const std::string layer = path.substr(0, path.rfind('.'));
  OnnxFile::Names inputs = {name(node->input(0)), write_constant(path, weight)};
  if (bias.defined()) inputs.push_back(write_constant(layer + ".bias", bias));

  const Shape padding = height_and_width(node, 4);
  file_.add_node("Conv", layer, inputs, {name(output)},
                 {{"kernel_shape", Shape{weight.size(2), weight.size(3)}},
                  {"strides", height_and_width(node, 3)},
                  {"pads", Shape{padding[0], padding[1], padding[0], padding[1]}},
                  {"dilations", height_and_width(node, 5)},
                  {"group", integer(node, is_plain ? kGroupsOfPlain : kGroups)}});
}

void GraphWriter::batch_norm(const Node* node) {
  emit("BatchNormalization", node,
       {name(node->input(0)), name(node->input(1)), name(node->input(2)), name(node->input(3)),
        name(node->input(4))},
       {{"epsilon", static_cast<float>(constant(node->input(7))->toDouble())}});
}

void GraphWriter::silu(const Node* node) {
  const std::string input = name(node->input(0));
  emit("Mul", node, {input, emit_between("Sigmoid", {input})});
}

void GraphWriter::add_or_sub(const Node* node) {
  const c10::IValue* factor = constant(node->input(2));
  if (factor == nullptr || factor->toScalar().toDouble() != 1) {
    throw std::runtime_error("onnx: an addition with a factor has no counterpart here.");
  }
  elementwise(node->kind() == c10::aten::add ? "Add" : "Sub", node);
}

void GraphWriter::elementwise(const std::string& type, const Node* node) {
  emit(type, node, {name(node->input(0)), name(node->input(1))});
}

void GraphWriter::concatenate(const Node* node) {
  const std::vector<const Value*>& parts = lists_.at(node->input(0));
  OnnxFile::Names inputs;
  for (const Value* part : parts) inputs.push_back(name(part));
  const std::int64_t given = integer(node, 1);
  const auto rank = static_cast<std::int64_t>(shape_of(parts.front()).size());
  emit("Concat", node, inputs, {{"axis", given < 0 ? given + rank : given}});
}

void GraphWriter::chunk(const Node* node) {
  const std::size_t along = axis(node, 2);
  const std::int64_t length = shape_of(node->input(0)).at(along), count = integer(node, 1);
  const std::int64_t each = (length + count - 1) / count;
  Parts parts{name(node->input(0)), along, {}};
  for (std::int64_t end = each; end < length + each; end += each) {
    parts.ends.push_back(std::min(end, length));
  }
  parts_[node->output()] = parts;
}

void GraphWriter::split(const Node* node) {
  const std::size_t along = axis(node, 2);
  const std::int64_t length = shape_of(node->input(0)).at(along);
  Parts parts{name(node->input(0)), along, {}};
  if (node->kind() == c10::aten::split_with_sizes) {
    parts.ends = integers(node, 1);
    std::partial_sum(parts.ends.begin(), parts.ends.end(), parts.ends.begin());
  } else {
    const std::int64_t each = integer(node, 1);
    for (std::int64_t end = each; end < length + each; end += each) {
      parts.ends.push_back(std::min(end, length));
    }
  }
  parts_[node->output()] = parts;
}

void GraphWriter::unpack(const Node* node) {
  const Parts& parts = parts_.at(node->input());
  std::int64_t start = 0;
  for (std::size_t i = 0; i < node->outputs().size(); ++i) {
    emit_slice(node->output(i), parts.input, parts.axis, start, parts.ends.at(i));
    start = parts.ends[i];
  }
}

void GraphWriter::narrow(const Node* node) {
  const std::int64_t start = integer(node, 2);
  emit_slice(node->output(), name(node->input(0)), axis(node, 1), start, start + integer(node, 3));
}

void GraphWriter::slice(const Node* node) {
  const auto bound = [&](std::size_t input, std::int64_t otherwise) {
    const c10::IValue* known = constant(node->input(input));
    return known != nullptr && known->isNone() ? otherwise : integer(node, input);
  };
  emit_slice(node->output(), name(node->input(0)), axis(node, 1), bound(2, 0),
             bound(3, std::numeric_limits<std::int64_t>::max()), integer(node, 4));
}

void GraphWriter::select(const Node* node) {
  Shape shape = shape_of(node->input(0));
  const std::size_t along = axis(node, 1);
  const std::int64_t given = integer(node, 2);
  const std::int64_t index = given < 0 ? given + shape[along] : given;
  const std::string one =
      emit_between("Slice", {name(node->input(0)), write_list({index}), write_list({index + 1}),
                             write_list({static_cast<std::int64_t>(along)}), write_list({1})});
  shape[along] = 1;
  emit_reshape(node->output(), one, shape);
}

void GraphWriter::max_pool(const Node* node) {
  const Shape padding = height_and_width(node, 3), dilation = integers(node, 4);
  if (std::any_of(dilation.begin(), dilation.end(), [](std::int64_t d) { return d != 1; })) {
    throw std::runtime_error("onnx: a dilated max_pool2d has no counterpart here.");
  }
  const Shape kernel = height_and_width(node, 1), stride = height_and_width(node, 2);
  emit("MaxPool", node, {name(node->input(0))},
       {{"kernel_shape", kernel},
        {"strides", stride.empty() ? kernel : stride},
        {"pads", Shape{padding[0], padding[1], padding[0], padding[1]}},
        {"ceil_mode", integer(node, 5)}});
}

void GraphWriter::upsample(const Node* node) {
  const Shape before = shape_of(node->input(0)), after = shape_of(node->output());
  const std::vector<float> factors = {
      1, 1, static_cast<float>(after.at(2)) / static_cast<float>(before.at(2)),
      static_cast<float>(after.at(3)) / static_cast<float>(before.at(3))};
  const std::string scales = fresh("scales");
  file_.add_constant(scales, {4}, factors.data());
  const std::string region = fresh("region");  // Unused, but opset 12 wants it.
  file_.add_constant(region, {0}, nullptr);
  emit("Resize", node, {name(node->input(0)), region, scales},
       {{"mode", "nearest"},
        {"coordinate_transformation_mode", "asymmetric"},
        {"nearest_mode", "floor"}});
}

void GraphWriter::reshape(const Node* node) {
  emit_reshape(node->output(), name(node->input(0)), shape_of(node->input(0)));
}

void GraphWriter::transpose(const Node* node) {
  Shape order(shape_of(node->input(0)).size());
  std::iota(order.begin(), order.end(), 0);
  std::swap(order.at(axis(node, 1)), order.at(axis(node, 2)));
  emit("Transpose", node, {name(node->input(0))}, {{"perm", order}});
}

void GraphWriter::permute(const Node* node) {
  Shape order = integers(node, 1);
  for (std::int64_t& each : order) {
    if (each < 0) each += static_cast<std::int64_t>(order.size());
  }
  emit("Transpose", node, {name(node->input(0))}, {{"perm", order}});
}

// Opset 12 takes all axes from the given one on together: right for the last one alone.
void GraphWriter::softmax(const Node* node) {
  const std::size_t along = axis(node, 1), last = shape_of(node->input(0)).size() - 1;
  const OnnxFile::Attributes of_last = {{"axis", static_cast<std::int64_t>(last)}};
  if (along == last) {
    emit("Softmax", node, {name(node->input(0))}, of_last);
    return;
  }
  Shape order(last + 1);
  std::iota(order.begin(), order.end(), 0);
  std::swap(order[along], order[last]);
  const OnnxFile::Attributes swap = {{"perm", order}};
  const std::string turned = emit_between("Transpose", {name(node->input(0))}, swap);
  emit("Transpose", node, {emit_between("Softmax", {turned}, of_last)}, swap);
}

// A number that alone multiplies the product multiplies the left side instead: OpenCV 4.6 would
// merge it into the product and lose it. A vector on the right becomes a matrix of one column,
// which more runtimes know.
void GraphWriter::matmul(const Node* node) {
  const Value *right = node->input(1), *output = node->output();
  if (constant(right) != nullptr && tensor(node, 1).dim() == 1) {
    const std::string column = write_constant(fresh("constant"), tensor(node, 1).view({-1, 1}));
    const std::string product = emit_between("MatMul", {name(node->input(0)), column});
    emit_reshape(output, product, shape_of(node->input(0)));
    return;
  }
  std::string left = name(node->input(0));
  const Node* reader = output->uses().size() == 1 ? output->uses().front().user : nullptr;
  if (reader != nullptr && reader->kind() == c10::aten::mul && constant(reader->input(1)) &&
      is_number(*constant(reader->input(1)))) {
    left = emit_between("Mul", {left, name(reader->input(1))});
    output = reader->output();
    merged_.insert(reader);
  }
  file_.add_node("MatMul", fresh("MatMul"), {left, name(right)}, {name(output)});
}

}  // namespace

void add_graph(OnnxFile& file, const TracedModel& traced, BatchSize batch_size) {
  GraphWriter(file, traced, batch_size).write();
}

}  // namespace trainer
