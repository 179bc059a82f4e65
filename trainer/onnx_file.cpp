// SPDX-License-Identifier: Apache-2.0
#include "trainer/onnx_file.h"

#define ONNX_ML 1  // As the library was built.
#include <onnx/onnx_pb.h>

#include <bit>
#include <functional>
#include <numeric>
#include <stdexcept>

namespace trainer {

namespace {

constexpr int kIrVersion = 7;  // The one that came with opset 12.
constexpr int kOpset = 12;

void set_type(onnx::ValueInfoProto& value, const std::string& name, const OnnxFile::Shape& shape) {
  value.set_name(name);
  auto* tensor = value.mutable_type()->mutable_tensor_type();
  tensor->set_elem_type(onnx::TensorProto::FLOAT);
  for (const std::int64_t length : shape) {
    auto* dimension = tensor->mutable_shape()->add_dim();
    if (length < 0) {
      dimension->set_dim_param("batch");
    } else {
      dimension->set_dim_value(length);
    }
  }
}

void set_value(onnx::AttributeProto& attribute, const OnnxFile::Attribute& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    attribute.set_type(onnx::AttributeProto::INT);
    attribute.set_i(*integer);
  } else if (const auto* number = std::get_if<float>(&value)) {
    attribute.set_type(onnx::AttributeProto::FLOAT);
    attribute.set_f(*number);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    attribute.set_type(onnx::AttributeProto::STRING);
    attribute.set_s(*text);
  } else {
    attribute.set_type(onnx::AttributeProto::INTS);
    for (const std::int64_t each : std::get<OnnxFile::Shape>(value)) attribute.add_ints(each);
  }
}

}  // namespace

struct OnnxFile::Impl {
  onnx::ModelProto model;
};

OnnxFile::OnnxFile() : impl_(std::make_unique<Impl>()) {
  static_assert(std::endian::native == std::endian::little, "raw_data is little-endian.");
  impl_->model.set_ir_version(kIrVersion);
  impl_->model.set_producer_name("trainyard");
  auto* opset = impl_->model.add_opset_import();
  opset->set_domain("");
  opset->set_version(kOpset);
  impl_->model.mutable_graph()->set_name("detection");
}

OnnxFile::~OnnxFile() = default;

void OnnxFile::add_input(const std::string& name, const Shape& shape) {
  set_type(*impl_->model.mutable_graph()->add_input(), name, shape);
}

void OnnxFile::add_output(const std::string& name, const Shape& shape) {
  set_type(*impl_->model.mutable_graph()->add_output(), name, shape);
}

void OnnxFile::add_constant(const std::string& name, const Shape& shape, const float* values) {
  auto* tensor = impl_->model.mutable_graph()->add_initializer();
  tensor->set_name(name);
  tensor->set_data_type(onnx::TensorProto::FLOAT);
  for (const std::int64_t length : shape) tensor->add_dims(length);
  const std::int64_t count =
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  if (count == 0) return;
  tensor->set_raw_data(values, static_cast<std::size_t>(count) * sizeof(float));
}

void OnnxFile::add_constant(const std::string& name, const std::vector<std::int64_t>& values) {
  auto* tensor = impl_->model.mutable_graph()->add_initializer();
  tensor->set_name(name);
  tensor->set_data_type(onnx::TensorProto::INT64);
  tensor->add_dims(static_cast<std::int64_t>(values.size()));
  tensor->set_raw_data(values.data(), values.size() * sizeof(std::int64_t));
}

void OnnxFile::add_node(const std::string& type, const std::string& name, const Names& inputs,
                        const Names& outputs, const Attributes& attributes) {
  auto* node = impl_->model.mutable_graph()->add_node();
  node->set_op_type(type);
  node->set_name(name);
  for (const std::string& input : inputs) node->add_input(input);
  for (const std::string& output : outputs) node->add_output(output);
  for (const auto& [key, value] : attributes) {
    auto* attribute = node->add_attribute();
    attribute->set_name(key);
    set_value(*attribute, value);
  }
}

void OnnxFile::add_metadata(const std::string& key, const std::string& value) {
  auto* entry = impl_->model.add_metadata_props();
  entry->set_key(key);
  entry->set_value(value);
}

std::string OnnxFile::serialize() const {
  std::string bytes;
  if (!impl_->model.SerializeToString(&bytes)) {
    throw std::runtime_error("The ONNX file would be larger than the 2 GiB that protobuf allows.");
  }
  return bytes;
}

}  // namespace trainer
