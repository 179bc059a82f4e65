// SPDX-License-Identifier: Apache-2.0
// trainer/onnx_file.h
//
// An ONNX model in the making (opset 12, which old runtimes read too). The one place that knows
// ONNX's protobuf schema.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace trainer {

class OnnxFile {
 public:
  using Shape = std::vector<std::int64_t>;
  using Attribute = std::variant<std::int64_t, float, std::string, Shape>;
  using Attributes = std::map<std::string, Attribute>;
  using Names = std::vector<std::string>;

  OnnxFile();
  ~OnnxFile();
  OnnxFile(const OnnxFile&) = delete;
  OnnxFile& operator=(const OnnxFile&) = delete;

  // float32 tensors. A length of -1 is free and called "batch".
  void add_input(const std::string& name, const Shape& shape);
  void add_output(const std::string& name, const Shape& shape);
  // `values` may be null where `shape` holds none.
  void add_constant(const std::string& name, const Shape& shape, const float* values);
  void add_constant(const std::string& name, const std::vector<std::int64_t>& values);
  // Nodes are added in an order in which each comes after what it reads.
  void add_node(const std::string& type, const std::string& name, const Names& inputs,
                const Names& outputs, const Attributes& attributes = {});
  void add_metadata(const std::string& key, const std::string& value);

  [[nodiscard]] std::string serialize() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trainer
