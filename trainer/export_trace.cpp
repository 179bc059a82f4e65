// SPDX-License-Identifier: Apache-2.0
#include "trainer/export_trace.h"

#include <fmt/format.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/utils.h>

#include <stdexcept>

namespace trainer {

namespace {

namespace jit = torch::jit;

// The tree of a module's tensors under the same names, without its code.
jit::Module mirror(const torch::nn::Module& module,
                   const std::shared_ptr<jit::CompilationUnit>& unit) {
  // Each has a type of its own: the names of its members are part of the type.
  jit::Module result(c10::QualifiedName("__torch__.trainyard.Layer"), unit, /*shouldMangle=*/true);
  result.register_attribute("training", c10::BoolType::get(), false);
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    result.register_parameter(item.key(), item.value(), /*is_buffer=*/false);
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    result.register_buffer(item.key(), item.value());
  }
  for (const auto& item : module.named_children()) {
    result.register_module(item.key(), mirror(*item.value(), unit));
  }
  return result;
}

void constants_to_buffers(jit::Module& module, jit::Graph& graph) {
  std::vector<jit::Node*> constants;
  for (jit::Node* node : graph.nodes()) {
    if (node->kind() != c10::prim::Constant) continue;
    const auto value = jit::toIValue(node->output());
    if (value && value->isTensor() && value->toTensor().dim() > 0) constants.push_back(node);
  }
  for (std::size_t i = 0; i < constants.size(); ++i) {
    const std::string name = fmt::format("constant_{}", i);
    module.register_buffer(name, jit::toIValue(constants[i]->output())->toTensor());
    jit::WithInsertPoint here(constants[i]);
    jit::Value* buffer = graph.insertGetAttr(graph.inputs().at(0), name);
    buffer->setType(constants[i]->output()->type());
    constants[i]->output()->replaceAllUsesWith(buffer);
    constants[i]->destroy();
  }
}

// A traced shape names the number of images; -1 stands for it instead.
void free_batch(jit::Graph& graph) {
  const std::int64_t batch = shape_of(graph.inputs().at(1)).at(0);
  for (jit::Node* node : graph.nodes()) {
    if (node->kind() != c10::aten::view && node->kind() != c10::aten::reshape) continue;
    std::vector<std::int64_t> shape = shape_of(node->output());
    const std::vector<std::int64_t> before = shape_of(node->input(0));
    if (shape.empty() || before.empty() || shape[0] != batch || before[0] != batch) continue;
    shape[0] = -1;
    jit::WithInsertPoint here(node);
    node->replaceInput(1, graph.insertConstant(c10::List<std::int64_t>(shape)));
  }
}

}  // namespace

std::vector<std::int64_t> shape_of(const torch::jit::Value* value) {
  const auto type = value->type()->cast<c10::TensorType>();
  const auto sizes = type ? type->sizes().concrete_sizes() : c10::nullopt;
  if (!sizes) throw std::logic_error(value->debugName() + ": a value of unknown shape.");
  return *sizes;
}

TracedModel trace_model(DetectionModel& model, int batch, int height, int width) {
  TracedModel traced;
  traced.module = mirror(model, std::make_shared<jit::CompilationUnit>());
  const auto run = [&model](jit::Stack inputs) {
    return jit::Stack{model.decode(model.forward(inputs.at(0).toTensor()))};
  };
  // With gradients allowed the model computes nothing in place, which a graph could not show.
  torch::AutoGradMode out_of_place(true);
  jit::tracer::setWarn([](const std::string&) {});  // Shapes are meant to be constants.
  traced.graph =
      jit::tracer::trace({torch::zeros({batch, 3, height, width})}, run,
                         [](const torch::autograd::Variable&) { return ""; },
                         /*strict=*/true, /*force_outplace=*/true, &traced.module, {"images"})
          .first->graph;
  jit::ConstantPropagation(traced.graph);
  jit::EliminateDeadCode(traced.graph);
  constants_to_buffers(traced.module, *traced.graph);
  return traced;
}

void define_forward(TracedModel& traced) {
  free_batch(*traced.graph);
  jit::EliminateDeadCode(traced.graph);
  jit::Function* forward = traced.module._ivalue()->compilation_unit()->create_function(
      c10::QualifiedName(*traced.module.type()->name(), "forward"), traced.graph);
  traced.module.type()->addMethod(forward);
}

}  // namespace trainer
