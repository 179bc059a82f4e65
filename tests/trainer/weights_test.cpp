// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iterator>
#include <stdexcept>

#include "tests/trainer/reference_numbers.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/durable_file.h"
#include "trainer/ema.h"
#include "trainer/loss.h"
#include "trainer/optimizer.h"
#include "trainer/sync_norm.h"
#include "trainer/tensor_file.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

// Three strides, every module, and quick to make.
constexpr const char* kOwn = R"(nc: 1
scales: {n: [1.0, 0.25, 1024], s: [1.0, 0.5, 1024]}
backbone:
  - [-1, 1, Conv, [64, 3, 4]]
  - [-1, 1, DWConv, [64, 3, 2]]
  - [-1, 1, C3, [64]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 2, C3k2, [256, True]]
  - [-1, 1, SPPF, [512, 5]]
  - [-1, 1, C2PSA, [512]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - [-1, 1, C2f, [64]]
  - [[9, 6], 1, Detect, [nc]]
)";

std::string message_of(const std::function<void()>& work) {
  try {
    work();
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

TEST(OwnModel, TrainsAndComesBackFromItsWeightsAlone) {
  const TempFolder folder;
  DetectionModel model(folder.write("yolov8s-own.yaml", kOwn), 3);
  const torch::Tensor images = torch::rand({1, 3, 64, 96});
  model.train();
  const auto maps = model.forward(images);
  ASSERT_EQ(maps.size(), 2U);
  EXPECT_EQ(maps[0].sizes().vec(), (std::vector<std::int64_t>{1, 4 * kRegMax + 3, 8, 12}));
  EXPECT_EQ(maps[1].sizes().vec(), (std::vector<std::int64_t>{1, 4 * kRegMax + 3, 4, 6}));
  const torch::Tensor targets = torch::tensor({{0.F, 1.F, 0.5F, 0.5F, 0.4F, 0.4F}});
  detection_loss(maps, model.strides(), targets, {}, 1, of_this_rank_alone).total.backward();
  for (const auto& item : model.named_parameters()) {
    EXPECT_EQ(item.value().grad().defined(), item.value().requires_grad()) << item.key();
  }

  save_weights(folder.at("best.safetensors"), model, {.class_names = {"a", "b", "c"}});
  std::filesystem::remove(folder.at("yolov8s-own.yaml"));
  const LoadedModel loaded = load_model(folder.at("best.safetensors"));

  model.eval();
  loaded.model->eval();
  torch::NoGradGuard no_grad;
  EXPECT_EQ(loaded.model->name(), "yolov8s-own");
  EXPECT_TRUE(torch::equal(loaded.model->forward(images)[1], model.forward(images)[1]));
}

// The names and shapes of a model as another program would write them.
TensorFile foreign_file(const DetectionModel& model, const std::string& prefix,
                        torch::ScalarType type) {
  TensorFile file;
  for (const auto& [name, tensor] : state_tensors(model)) {
    if (name.ends_with("num_batches_tracked")) continue;
    file.tensors.emplace_back(prefix + name, tensor.to(type));
  }
  return file;
}

TEST(WeightsFile, OfAnotherProgramIsRecognisedByNamesAndShapes) {
  const TempFolder folder;
  for (const std::string name : {"yolov8n", "yolo11n", "yolo11m"}) {
    SCOPED_TRACE(name);
    const DetectionModel model(name, 5);
    write_tensor_file(folder.at("w"), foreign_file(model, "model.", torch::kFloat16));

    const LoadedModel loaded = load_model(folder.at("w"));

    EXPECT_EQ(loaded.model->name(), name);
    EXPECT_EQ(loaded.info.class_names.size(), 5U);
    EXPECT_EQ(loaded.info.class_names.back(), "class_4");
    const torch::Tensor read = loaded.model->parameters()[0];
    EXPECT_EQ(read.scalar_type(), torch::kFloat32);
    EXPECT_TRUE(torch::allclose(read, model.parameters()[0], 1e-3, 1e-4));
  }
}

TEST(WeightsFile, SaysWhyItIsNotRecognised) {
  const TempFolder folder;
  const DetectionModel model("yolov8n", 5);
  TensorFile file = foreign_file(model, "", torch::kFloat32);
  std::erase_if(file.tensors, [](const auto& each) { return each.first == "model.9.cv2.bn.bias"; });
  write_tensor_file(folder.at("w"), file);
  const std::string fault = message_of([&] { static_cast<void>(load_model(folder.at("w"))); });
  EXPECT_NE(fault.find("the nearest known model is yolov8n, but model.9.cv2.bn.bias does not fit "
                       "(1 in all)"),
            std::string::npos)
      << fault;

  file.metadata = {{"model", "yolov8n"}, {"class_names", "[\"a\", \"b\"]"}};
  write_tensor_file(folder.at("w"), file);
  EXPECT_NE(message_of([&] {
              static_cast<void>(load_model(folder.at("w")));
            }).find("2 class names, but tensors for 5 classes"),
            std::string::npos);

  write_tensor_file(folder.at("w"), {.metadata = {}, .tensors = {{"weight", torch::ones({2})}}});
  EXPECT_NE(message_of([&] {
              static_cast<void>(load_model(folder.at("w")));
            }).find("no detection network"),
            std::string::npos);
}

// Asked when the part is there: whoever takes the folder later removes the part, and whoever took it
// before is seen.
TEST(WeightsFile, OfAFolderThatIsAnothersByNowStaysAsItWas) {
  const TempFolder folder;
  write_tensor_file(folder.at("w"), {.metadata = {}, .tensors = {{"weight", torch::ones({2})}}});
  const std::string before = read_file(folder.at("w"));
  const auto files = [&folder] {
    const std::filesystem::directory_iterator all(folder.at(""));
    return std::distance(begin(all), end(all));
  };
  const auto check_owner = [&files] {
    EXPECT_EQ(files(), 2);
    throw std::runtime_error("taken over");
  };
  const std::string fault = message_of([&] {
    write_tensor_file(folder.at("w"), {.metadata = {}, .tensors = {{"weight", torch::zeros({2})}}},
                      Seal::kNone, check_owner);
  });
  EXPECT_EQ(fault, "taken over");
  EXPECT_EQ(read_file(folder.at("w")), before);
  EXPECT_EQ(files(), 1);
}

TEST(Pretrained, KeepsWhatFitsAndNamesTheRest) {
  const TempFolder folder;
  torch::manual_seed(1);
  const DetectionModel coco("yolov8n", 80);
  write_tensor_file(folder.at("w"), foreign_file(coco, "model.", torch::kFloat16));
  DetectionModel three("yolov8n", 3), same("yolov8n", 80), other("yolo11n", 80);

  EXPECT_EQ(load_pretrained(folder.at("w"), three),
            "kept 262 of 355 tensors; new: model.22.cv3.* (80 -> 3 classes)");
  EXPECT_EQ(load_pretrained(folder.at("w"), same), "kept 298 of 355 tensors");
  EXPECT_TRUE(torch::allclose(three.parameters()[0], coco.parameters()[0], 1e-3, 1e-4));
  const std::string text = load_pretrained(folder.at("w"), other);
  EXPECT_EQ(text,
            "kept 70 of 499 tensors; new: model.2.*, model.3.*, model.4.*, model.5.*, model.6.*, "
            "model.8.* and 10 more");

  DetectionModel wide("yolov8x", 80);
  EXPECT_NE(message_of([&] { load_pretrained(folder.at("w"), wide); }).find("none of 298 tensors"),
            std::string::npos);
}

// Debian's Python: another one, first in the path, may lack numpy.
int run_python(const std::string& arguments) {
  return std::system(("/usr/bin/python3 -B " + arguments).c_str());
}

TEST(ConvertWeights, BringsNumpyArraysAndBackTheSameBytes) {
  const TempFolder folder;
  const std::string script = std::string(TRAINYARD_SOURCE) + "/scripts/convert_weights.py";
  const DetectionModel model("yolo11n", 3);
  save_weights(folder.at("a.safetensors"), model, {.class_names = {"a", "b", "c"}, .imgsz = 320});
  // An npz as another program would make it: mixed types, one array in Fortran's order.
  folder.write("make.py",
               "import sys, numpy, importlib.util as u\n"
               "spec = u.spec_from_file_location('c', sys.argv[1])\n"
               "c = u.module_from_spec(spec); spec.loader.exec_module(c)\n"
               "tensors, metadata = c.read_safetensors(sys.argv[2])\n"
               "assert metadata['imgsz'] == '320', metadata\n"
               "kinds = {v: '<' + k for k, v in c.TYPES.items()}\n"
               "arrays = {n: numpy.frombuffer(d, kinds[k]).reshape(s)\n"
               "          for n, (k, s, d) in tensors.items()}\n"
               "name = 'model.0.conv.weight'\n"
               "arrays[name] = numpy.asfortranarray(arrays[name])\n"
               "name = 'model.1.conv.weight'\n"
               "arrays[name] = arrays[name].astype(numpy.float16)\n"
               "numpy.savez(sys.argv[3], **arrays)\n");
  ASSERT_EQ(run_python(folder.at("make.py") + " " + script + " " + folder.at("a.safetensors") +
                       " " + folder.at("b.npz")),
            0);
  ASSERT_EQ(run_python(script + " --names 'a,b,big c' --imgsz 416 " + folder.at("b.npz") + " " +
                       folder.at("c.safetensors") + " >/dev/null"),
            0);

  const LoadedModel loaded = load_model(folder.at("c.safetensors"));

  EXPECT_EQ(loaded.model->name(), "yolo11n");
  EXPECT_EQ(loaded.info.class_names, (std::vector<std::string>{"a", "b", "big c"}));
  EXPECT_EQ(loaded.info.imgsz, 416);
  const auto wanted = state_tensors(model), got = state_tensors(*loaded.model);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const bool is_half = wanted[i].first == "model.1.conv.weight";
    EXPECT_TRUE(is_half ? torch::allclose(got[i].second, wanted[i].second, 1e-3, 1e-4)
                        : torch::equal(got[i].second, wanted[i].second))
        << wanted[i].first;
  }
  EXPECT_NE(run_python(script + " " + folder.at("make.py") + " " + folder.at("d.safetensors") +
                       " 2>/dev/null"),
            0);
}

TEST(Freeze, LeavesLayersAndTheirStatisticsAlone) {
  const TempFolder folder;
  torch::manual_seed(3);
  DetectionModel model(folder.write("own.yaml", kOwn), 2);
  freeze_layers(model, {0, 1, 4});
  model.train();
  std::vector<std::pair<std::string, torch::Tensor>> before;
  for (const auto& [name, tensor] : state_tensors(model)) before.emplace_back(name, tensor.clone());

  Optimizer optimizer(model, OptimizerKind::kSgd, 5e-4);
  const auto maps = model.forward(torch::rand({2, 3, 64, 64}));
  detection_loss(maps, model.strides(), torch::tensor({{0.F, 1.F, 0.5F, 0.5F, 0.4F, 0.4F}}), {}, 2,
                 of_this_rank_alone)
      .total.backward();
  StepRates rates;
  rates.lr.fill(0.01);
  optimizer.step(rates);

  std::size_t changed = 0, kept = 0;
  const auto after = state_tensors(model);
  for (std::size_t i = 0; i < after.size(); ++i) {
    const std::string& name = after[i].first;
    const bool is_same = torch::equal(after[i].second, before[i].second);
    const bool is_frozen = name.starts_with("model.0.") || name.starts_with("model.1.") ||
                           name.starts_with("model.4.");
    EXPECT_EQ(model.is_frozen(name), is_frozen) << name;
    if (is_frozen || name == "model.10.dfl.conv.weight") {
      EXPECT_TRUE(is_same) << name;
      ++kept;
    } else {
      changed += is_same ? 0 : 1;
    }
  }
  EXPECT_GT(kept, 20U);
  EXPECT_GT(changed, (after.size() - kept) * 9 / 10);

  model.eval();
  model.train();  // As every epoch begins.
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    if (item.value()->as<SyncNorm>() == nullptr) continue;
    EXPECT_EQ(item.value()->is_training(), !model.is_frozen(item.key())) << item.key();
  }
}

TEST(Freeze, RefusesWhatIsNotThereAndAll) {
  DetectionModel model("yolov8n", 2);
  std::vector<int> all(23);
  for (int i = 0; i < 23; ++i) all[static_cast<std::size_t>(i)] = i;

  EXPECT_EQ(message_of([&] { freeze_layers(model, {23}); }),
            "freeze: there is no layer 23 in yolov8n, which has 0..22.");
  EXPECT_EQ(message_of([&] { freeze_layers(model, all); }),
            "freeze: all 23 layers of yolov8n: nothing is left to train.");
  EXPECT_FALSE(model.is_frozen("model.0.conv.weight"));
}

}  // namespace
}  // namespace trainer
