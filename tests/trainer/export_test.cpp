// SPDX-License-Identifier: GPL-3.0-or-later
//
// Exported models give what ours gives: TorchScript loaded again, ONNX before the official checker
// and in OpenCV's runtime, which shares nothing with torch.
// As the library was built.
#define ONNX_ML 1
#define ONNX_NAMESPACE onnx

#include <gtest/gtest.h>
#include <onnx/checker.h>
#include <onnx/onnx_pb.h>
#include <onnx/shape_inference/implementation.h>
#include <torch/csrc/jit/ir/irparser.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/utils.h>

#include <filesystem>
#include <map>
#include <memory>
#include <opencv2/dnn.hpp>
#include <set>
#include <sstream>

#include "tests/trainer/reference_numbers.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/contract/train_args.h"
#include "trainer/detection.h"
#include "trainer/evaluate.h"
#include "trainer/export.h"
#include "trainer/export_metadata.h"
#include "trainer/export_onnx.h"
#include "trainer/image.h"
#include "trainer/scenes.h"

namespace trainer {
namespace {

constexpr int kClasses = 80;

std::vector<std::string> class_names() {
  std::vector<std::string> names;
  for (int i = 0; i < kClasses; ++i) names.push_back("class " + std::to_string(i));
  names[1] = "it's";
  return names;
}

// Weights by the formula of the reference: they need no file.
std::shared_ptr<DetectionModel> filled_model(const std::string& name = "yolov8n") {
  torch::NoGradGuard no_grad;
  auto model = std::make_shared<DetectionModel>(name, kClasses);
  for (const auto& [key, tensor] : state_tensors(*model)) {
    tensor.copy_(reference::filled(key, tensor));
  }
  return model;
}

// The smallest of each family.
std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const std::string& name : contract::known_models()) {
    if (name.ends_with('n')) names.push_back(name);
  }
  return names;
}

std::string weights_path(const std::string& model) {
  return (reference::folder() / "weights" / (model + "_coco_merged_statedict_fp16.npz")).string();
}

std::shared_ptr<DetectionModel> coco_model(const std::string& name) {
  torch::NoGradGuard no_grad;
  auto model = std::make_shared<DetectionModel>(name, kClasses);
  const auto arrays = reference::read_npz(weights_path(name));
  for (const auto& [key, tensor] : state_tensors(*model)) {
    const reference::Array& array = arrays.at(key);
    torch::Tensor value;
    if (array.type == "<f2") {
      value = torch::empty(array.shape, torch::kHalf);
      std::memcpy(value.data_ptr(), array.bytes.data(), array.bytes.size());
    } else {
      value = reference::to_tensor(array);
    }
    tensor.copy_(value);
  }
  return model;
}

torch::Tensor predictions_of(DetectionModel& model, const torch::Tensor& images) {
  torch::NoGradGuard no_grad;
  model.eval();
  return model.decode(model.forward(images));
}

// An image of a file as the network sees it.
torch::Tensor network_input(const std::string& path, int side) {
  const ReadImage image = read_image(path);
  EXPECT_EQ(image.problem, "") << path;
  const cv::Mat square =
      apply_letterbox(image.pixels, plan_letterbox(image.pixels.size(), {side, side}));
  torch::Tensor planes = torch::empty({1, 3, side, side}, torch::kUInt8);
  write_rgb_planes(square, planes.data_ptr<std::uint8_t>());
  return planes.to(torch::kFloat).div_(255);
}

torch::Tensor run_in_opencv(cv::dnn::Net& net, const torch::Tensor& images) {
  const std::vector<int> sizes(images.sizes().begin(), images.sizes().end());
  net.setInput(cv::Mat(sizes, CV_32F, images.data_ptr<float>()), "images");
  const cv::Mat output = net.forward("output0");
  const std::vector<std::int64_t> shape(output.size.p, output.size.p + output.dims);
  return torch::from_blob(output.data, shape, torch::kFloat).clone();
}

cv::dnn::Net open_in_opencv(const std::string& path) {
  cv::dnn::Net net = cv::dnn::readNetFromONNX(path);
  net.setPreferableBackend(cv::dnn::DNN_BACKEND_OPENCV);
  net.setPreferableTarget(cv::dnn::DNN_TARGET_CPU);
  return net;
}

onnx::ModelProto read_onnx(const std::string& path) {
  onnx::ModelProto model;
  if (!model.ParseFromString(reference::read_text(path))) throw std::runtime_error(path);
  return model;
}

std::vector<std::int64_t> inferred_output(onnx::ModelProto model) {
  model.mutable_graph()->mutable_output(0)->mutable_type()->mutable_tensor_type()->clear_shape();
  onnx::ShapeInferenceOptions strict{/*check_type=*/true, /*strict_mode=*/1,
                                     /*data_prop=*/true};
  onnx::shape_inference::InferShapes(model, onnx::OpSchemaRegistry::Instance(), strict);
  std::vector<std::int64_t> shape;
  for (const auto& length : model.graph().output(0).type().tensor_type().shape().dim()) {
    shape.push_back(length.has_dim_value() ? length.dim_value() : -1);
  }
  return shape;
}

float overlap(const Box& a, const Box& b) {
  const float common = intersection(a, b);
  return common / (a.area() + b.area() - common);
}

std::vector<Detection> detections_of(const torch::Tensor& predictions) {
  const torch::Tensor rows =
      non_max_suppression(predictions, {.confidence = 0.25, .iou = 0.7, .multi_label = false})
          .front();
  std::vector<Detection> found;
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    const auto* row = rows.data_ptr<float>() + 6 * i;
    found.push_back({{row[0], row[1], row[2], row[3]}, row[4], static_cast<int>(row[5])});
  }
  return found;
}

// Every box of one is a box of the other.
void expect_same(const std::vector<Detection>& a, const std::vector<Detection>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const Detection& one : a) {
    SCOPED_TRACE("class " + std::to_string(one.cls) + ", score " + std::to_string(one.score));
    const Detection* best = nullptr;
    for (const Detection& other : b) {
      if (other.cls != one.cls) continue;
      if (best == nullptr || overlap(one.box, other.box) > overlap(one.box, best->box)) {
        best = &other;
      }
    }
    ASSERT_NE(best, nullptr);
    EXPECT_GE(overlap(one.box, best->box), 0.99F);
    EXPECT_NEAR(one.score, best->score, 1e-3);
  }
}

TEST(TorchScriptExport, GivesTheSameForAnyNumberOfImages) {
  for (const std::string& name : model_names()) {
    const TempFolder folder;
    const auto model = filled_model(name);
    export_model(folder.at("m.torchscript"), *model, class_names(), {.height = 96, .width = 128});

    torch::jit::Module loaded = torch::jit::load(folder.at("m.torchscript"));

    for (const std::int64_t batch : {1, 2}) {
      SCOPED_TRACE(name + ", batch " + std::to_string(batch));
      const torch::Tensor images =
          reference::uniform("export", {batch, 3, 96, 128}).to(torch::kFloat);
      const torch::Tensor ours = predictions_of(*model, images);
      EXPECT_LE(reference::difference(loaded.forward({images}).toTensor(), ours), 1e-5);
    }
  }
}

TEST(TorchScriptExport, CarriesItsDescription) {
  const TempFolder folder;
  export_model(folder.at("m.torchscript"), *filled_model(), class_names(),
               {.height = 96, .width = 128});

  torch::jit::ExtraFilesMap extra = {{"config.txt", ""}};
  static_cast<void>(torch::jit::load(folder.at("m.torchscript"), torch::kCPU, extra));

  const auto config = nlohmann::json::parse(extra.at("config.txt"));
  EXPECT_EQ(config.at("names").at("1"), "it's");
  EXPECT_EQ(config.at("imgsz"), nlohmann::json({96, 128}));
  EXPECT_EQ(config.at("stride"), 32);
}

TEST(TorchScriptExport, KeepsTheWeightsUnderTheirNames) {
  const TempFolder folder;
  const auto model = filled_model();
  export_model(folder.at("m.torchscript"), *model, class_names(), {.height = 64, .width = 64});
  const torch::jit::Module loaded = torch::jit::load(folder.at("m.torchscript"));

  std::map<std::string, torch::Tensor> tensors;
  for (const auto& item : loaded.named_parameters()) tensors.emplace(item.name, item.value);
  for (const auto& item : loaded.named_buffers()) tensors.emplace(item.name, item.value);

  for (const auto& [name, tensor] : state_tensors(*model)) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(tensors.contains(name));
    EXPECT_TRUE(torch::equal(tensors.at(name), tensor));
  }
}

TEST(OnnxExport, SatisfiesTheOfficialChecker) {
  const TempFolder folder;
  const auto model = filled_model();
  export_model(folder.at("m.onnx"), *model, class_names(),
               {.format = ExportFormat::kOnnx, .height = 96, .width = 128, .batch = 2});
  const onnx::ModelProto file = read_onnx(folder.at("m.onnx"));

  EXPECT_NO_THROW(onnx::checker::check_model(file));
  EXPECT_EQ(inferred_output(file), (std::vector<std::int64_t>{2, 84, 252}));
  EXPECT_EQ(file.graph().input(0).name(), "images");
  EXPECT_EQ(file.graph().output(0).name(), "output0");
  std::map<std::string, std::string> metadata;
  for (const auto& entry : file.metadata_props()) metadata[entry.key()] = entry.value();
  EXPECT_EQ(metadata["imgsz"], "[96, 128]");
  EXPECT_EQ(metadata["task"], "detect");
  EXPECT_EQ(metadata["names"].substr(0, 26), "{0: 'class 0', 1: 'it\\'s',");
}

TEST(OnnxExport, MakesBatchNormPartOfTheConvolutions) {
  const TempFolder folder;
  export_model(folder.at("m.onnx"), *filled_model(), class_names(),
               {.format = ExportFormat::kOnnx, .height = 64, .width = 64});
  const onnx::ModelProto file = read_onnx(folder.at("m.onnx"));

  std::map<std::string, int> counts;
  for (const auto& node : file.graph().node()) ++counts[node.op_type()];

  EXPECT_EQ(counts["Conv"], 63);
  EXPECT_EQ(counts["BatchNormalization"], 0);
  std::set<std::string> constants;
  for (const auto& each : file.graph().initializer()) constants.insert(each.name());
  EXPECT_TRUE(constants.contains("model.0.conv.weight"));
  EXPECT_TRUE(constants.contains("model.0.conv.bias"));
}

TEST(OnnxExport, LeavesTheNumberOfImagesOpenWhereAsked) {
  const TempFolder folder;
  export_model(
      folder.at("m.onnx"), *filled_model(), class_names(),
      {.format = ExportFormat::kOnnx, .height = 64, .width = 64, .batch_size = BatchSize::kFree});
  onnx::ModelProto file = read_onnx(folder.at("m.onnx"));
  EXPECT_NO_THROW(onnx::checker::check_model(file));
  auto* first = file.mutable_graph()
                    ->mutable_input(0)
                    ->mutable_type()
                    ->mutable_tensor_type()
                    ->mutable_shape()
                    ->mutable_dim(0);
  EXPECT_EQ(first->dim_param(), "batch");

  first->set_dim_value(5);

  EXPECT_EQ(inferred_output(file), (std::vector<std::int64_t>{5, 84, 84}));
}

TEST(OnnxExport, GivesTheSameInOpenCvOnADrawnScene) {
  const TempFolder folder;
  make_scenes({.out = folder.at("scenes"), .train = 1, .val = 1, .size = 160});
  const std::filesystem::directory_iterator first(folder.at("scenes/images/val"));
  const torch::Tensor image = network_input(first->path().string(), 160);
  for (const std::string& name : model_names()) {
    const auto model = filled_model(name);
    for (const int batch : {1, 2}) {
      SCOPED_TRACE(name + ", batch " + std::to_string(batch));
      export_model(folder.at("m.onnx"), *model, class_names(),
                   {.format = ExportFormat::kOnnx, .height = 160, .width = 160, .batch = batch});
      EXPECT_NO_THROW(onnx::checker::check_model(read_onnx(folder.at("m.onnx"))));
      const torch::Tensor images =
          torch::cat(std::vector<torch::Tensor>(batch, image)).contiguous();
      cv::dnn::Net net = open_in_opencv(folder.at("m.onnx"));

      const torch::Tensor theirs = run_in_opencv(net, images);

      EXPECT_LE(reference::difference(theirs, predictions_of(*model, images)), 1e-4);
    }
  }
}

void compare_on_photographs(const std::string& name) {
  const TempFolder folder;
  const auto model = coco_model(name);
  export_model(folder.at("m.onnx"), *model, class_names(), {.format = ExportFormat::kOnnx});
  cv::dnn::Net net = open_in_opencv(folder.at("m.onnx"));
  std::size_t boxes = 0;
  for (const auto& file :
       std::filesystem::directory_iterator(reference::folder() / "coco8/images/val")) {
    SCOPED_TRACE(name + ", " + file.path().filename().string());
    const torch::Tensor image = network_input(file.path().string(), 640);

    const std::vector<Detection> theirs = detections_of(run_in_opencv(net, image));

    const std::vector<Detection> ours = detections_of(predictions_of(*model, image));
    expect_same(ours, theirs);
    boxes += ours.size();
  }
  EXPECT_GE(boxes, 10U) << name;
}

TEST(OnnxExport, FindsTheSameBoxesInOpenCvOnPhotographs) {
  if (!std::filesystem::exists(weights_path("yolov8n"))) {
    GTEST_SKIP() << "no weights: " << weights_path("yolov8n");
  }
  for (const std::string& name : model_names()) {
    if (std::filesystem::exists(weights_path(name))) compare_on_photographs(name);
  }
}

// A graph of one operator, or a few, as it would have been recorded.
TracedModel graph_of(const std::string& text) {
  TracedModel traced{torch::jit::Module("__torch__.Empty"), std::make_shared<torch::jit::Graph>()};
  torch::jit::parseIR(text, traced.graph.get());
  return traced;
}

TEST(OnnxExport, NamesAnOperatorThatItDoesNotKnow) {
  const TracedModel traced = graph_of(R"(
    graph(%self, %x : Float(1, 3, 32, 32)):
      %y : Float(1, 3, 32, 32) = aten::hardswish(%x)
      return (%y))");
  OnnxFile file;
  try {
    add_graph(file, traced, BatchSize::kFixed);
    FAIL() << "accepted";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("aten::hardswish"), std::string::npos) << error.what();
  }
}

// What attention is made of, which YOLOv8 has not.
TEST(OnnxExport, WritesAttentionThatOpenCvRuns) {
  const TracedModel traced = graph_of(R"(
    graph(%self, %x : Float(2, 8, 3, 3)):
      %shape : int[] = prim::Constant[value=[2, 2, 4, 9]]()
      %back : int[] = prim::Constant[value=[2, 2, 3, 3]]()
      %sizes : int[] = prim::Constant[value=[1, 1, 2]]()
      %two : int = prim::Constant[value=2]()
      %last : int = prim::Constant[value=-1]()
      %before : int = prim::Constant[value=-2]()
      %scale : float = prim::Constant[value=0.5]()
      %none : NoneType = prim::Constant()
      %v : Float(2, 2, 4, 9) = aten::view(%x, %shape)
      %parts : Tensor[] = aten::split_with_sizes(%v, %sizes, %two)
      %q : Float(2, 2, 1, 9), %k : Float(2, 2, 1, 9), %w : Float(2, 2, 2, 9) = prim::ListUnpack(%parts)
      %qt : Float(2, 2, 9, 1) = aten::transpose(%q, %before, %last)
      %qk : Float(2, 2, 9, 9) = aten::matmul(%qt, %k)
      %scaled : Float(2, 2, 9, 9) = aten::mul(%qk, %scale)
      %weights : Float(2, 2, 9, 9) = aten::softmax(%scaled, %last, %none)
      %wt : Float(2, 2, 9, 9) = aten::transpose(%weights, %before, %last)
      %y : Float(2, 2, 2, 9) = aten::matmul(%w, %wt)
      return (%y))");
  OnnxFile file;
  add_graph(file, traced, BatchSize::kFixed);
  const TempFolder folder;
  const std::string path = folder.write("attention.onnx", file.serialize());
  EXPECT_NO_THROW(onnx::checker::check_model(read_onnx(path)));
  const torch::Tensor x = reference::uniform("attention", {2, 8, 3, 3}).to(torch::kFloat);
  const std::vector<torch::Tensor> parts = x.view({2, 2, 4, 9}).split_with_sizes({1, 1, 2}, 2);
  const torch::Tensor weights = (parts[0].transpose(-2, -1).matmul(parts[1]) * 0.5).softmax(-1);
  cv::dnn::Net net = open_in_opencv(path);

  const torch::Tensor theirs = run_in_opencv(net, x);

  EXPECT_LE(reference::difference(theirs, parts[2].matmul(weights.transpose(-2, -1))), 1e-5);
}

TEST(Export, RefusesASizeThatTheStridesDoNotDivide) {
  const TempFolder folder;
  try {
    export_model(folder.at("m.onnx"), *filled_model(), class_names(),
                 {.format = ExportFormat::kOnnx, .height = 100, .width = 640});
    FAIL() << "accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "imgsz = 100x640 is not a multiple of 32, the largest stride. Use 96x640.");
  }
  EXPECT_FALSE(std::filesystem::exists(folder.at("m.onnx")));
}

TEST(ExportMetadata, IsAsItsPageSays) {
  const std::string page = reference::read_text(TRAINYARD_DOCS "/formats/export.md");
  const std::size_t begin = page.find("```json") + 7;
  const auto example = nlohmann::json::parse(page.substr(begin, page.find("```", begin) - begin));

  const ExportMetadata metadata{
      .model = "yolov8n", .class_names = {"ball", "crate"}, .height = 384, .width = 640};

  EXPECT_EQ(nlohmann::json::parse(to_json_text(metadata)), example);
}

TEST(ExportMetadata, IsReadableByItsReaders) {
  const ExportMetadata metadata{.model = "yolov8n",
                                .class_names = {"a \"b\"", "c\\d", "e'f", "\xc3\xa9"},
                                .height = 32,
                                .width = 64};

  EXPECT_EQ(to_properties(metadata).at("names"),
            "{0: 'a \"b\"', 1: 'c\\\\d', 2: 'e\\'f', 3: '\xc3\xa9'}");
  const auto json = nlohmann::json::parse(to_json_text(metadata));
  EXPECT_EQ(json.at("names").at("2"), "e'f");
}

}  // namespace
}  // namespace trainer
