// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>
#include <torch/utils.h>

#include "tests/trainer/reference_numbers.h"
#include "trainer/assigner.h"
#include "trainer/boxes.h"
#include "trainer/ema.h"
#include "trainer/loss.h"
#include "trainer/model.h"
#include "trainer/optimizer.h"

namespace trainer {
namespace {

std::int64_t parameter_count(const DetectionModel& model) {
  std::int64_t count = 0;
  for (const torch::Tensor& parameter : model.parameters()) count += parameter.numel();
  return count;
}

// A model whose tensors follow the reference's formula.
std::shared_ptr<DetectionModel> filled_model() {
  torch::NoGradGuard no_grad;
  auto model = std::make_shared<DetectionModel>("yolov8n", 80);
  for (const auto& [name, tensor] : state_tensors(*model)) {
    tensor.copy_(reference::filled(name, tensor));
  }
  return model;
}

double own(double value) {
  return value;
}

// The targets of a case of fwd_yolov8n.json, as a batch has them.
torch::Tensor targets_of(const nlohmann::json& targets) {
  const auto images = targets.at("batch_idx").get<std::vector<float>>();
  torch::Tensor rows = torch::zeros({static_cast<std::int64_t>(images.size()), 6});
  for (std::size_t i = 0; i < images.size(); ++i) {
    auto* row = rows.data_ptr<float>() + 6 * i;
    row[0] = images[i];
    row[1] = targets.at("cls").at(i).at(0).get<float>();
    for (std::size_t j = 0; j < 4; ++j) row[2 + j] = targets.at("bboxes").at(i).at(j).get<float>();
  }
  return rows;
}

TEST(Model, HasAsManyParametersAsTheReference) {
  const std::map<std::string, std::int64_t> counts = {{"yolov8n", 3'157'200},
                                                      {"yolov8s", 11'166'560},
                                                      {"yolov8m", 25'902'640},
                                                      {"yolov8l", 43'691'520},
                                                      {"yolov8x", 68'229'648}};
  for (const auto& [name, count] : counts) {
    SCOPED_TRACE(name);
    EXPECT_EQ(parameter_count(DetectionModel(name, 80)), count);
  }
}

TEST(Model, RefusesAnUnknownName) {
  EXPECT_THROW(DetectionModel("yolov8q", 80), std::invalid_argument);
  EXPECT_THROW(DetectionModel("", 80), std::invalid_argument);
}

TEST(Model, HasTheNamesAndShapesOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  const nlohmann::json all = reference::json("arch.json");
  for (const std::string name : {"yolov8n", "yolov8m", "yolov8x"}) {
    SCOPED_TRACE(name);
    const DetectionModel model(name, 80);
    std::map<std::string, std::vector<std::int64_t>> shapes;
    for (const auto& [key, tensor] : state_tensors(model)) shapes[key] = tensor.sizes().vec();
    EXPECT_EQ(shapes.size(), all.at(name).at("state_dict").size());
    for (const auto& entry : all.at(name).at("state_dict")) {
      const std::string key = entry.at(0);
      ASSERT_TRUE(shapes.contains(key)) << key;
      EXPECT_EQ(shapes[key], entry.at(1).get<std::vector<std::int64_t>>()) << key;
    }
  }
}

TEST(Model, StartsWithTheBiasesOfTheReference) {
  const DetectionModel model("yolov8n", 80);
  const double expected[] = {-11.536642, -10.150348, -8.764053};
  const auto parameters = model.named_parameters();
  for (int i = 0; i < 3; ++i) {
    const std::string index = std::to_string(i);
    EXPECT_FLOAT_EQ(parameters["model.22.cv2." + index + ".2.bias"][0].item<float>(), 1.0F);
    EXPECT_NEAR(parameters["model.22.cv3." + index + ".2.bias"][0].item<double>(), expected[i],
                1e-4);
  }
}

TEST(Model, GivesTheFeaturesOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  torch::NoGradGuard no_grad;
  auto expected = reference::npz("fwd_yolov8n.npz");
  const auto model = filled_model();
  const torch::Tensor x = reference::uniform("input.x", {2, 3, 128, 160}).to(torch::kFloat);

  model->eval();
  const auto evaluated = model->forward(x);
  const torch::Tensor decoded = model->decode(evaluated);
  model->train();
  const auto trained = model->forward(x);

  for (std::size_t i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    const std::string index = std::to_string(i);
    EXPECT_LT(reference::difference(evaluated[i], expected["eval_feat" + index]), 5e-5);
    EXPECT_LT(reference::difference(trained[i], expected["train_feat" + index]), 5e-5);
  }
  EXPECT_LT(reference::difference(decoded, expected["eval_decoded"]), 5e-5);
}

class LossCase : public testing::TestWithParam<const char*> {};

TEST_P(LossCase, HasTheLossAndGradientsOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  const std::string name = GetParam();
  const nlohmann::json expected = reference::json("fwd_yolov8n.json").at("loss").at(name);
  auto arrays = reference::npz("fwd_yolov8n.npz");
  const auto model = filled_model();
  model->train();
  const torch::Tensor x = reference::uniform("input.x", {2, 3, 128, 160}).to(torch::kFloat);

  auto features = model->forward(x);
  for (torch::Tensor& map : features) map.retain_grad();
  const LossValue loss =
      detection_loss(features, model->strides(), targets_of(expected.at("targets")), {}, 2, own);
  loss.total.backward();

  const double total = expected.at("total");
  EXPECT_NEAR(loss.total.item<double>(), total, 2e-5 * total);
  for (int i = 0; i < 3; ++i) {
    const double item = expected.at("items").at(static_cast<std::size_t>(i));
    EXPECT_NEAR(loss.items[i].item<double>(), item, 2e-5 * item + 1e-9) << i;
    const std::string key = name + "_dfeat" + std::to_string(i);
    if (arrays.contains(key)) {
      EXPECT_LT(reference::difference(features[static_cast<std::size_t>(i)].grad(), arrays[key]),
                5e-5);
    }
  }
  for (const auto& item : model->named_parameters()) {
    if (!item.value().requires_grad()) continue;
    const double norm = expected.at("grad_norms").at(item.key());
    EXPECT_NEAR(item.value().grad().norm().item<double>(), norm, 1e-4 * norm + 1e-6) << item.key();
    const std::string key = name + "_grad." + item.key();
    if (arrays.contains(key)) {
      EXPECT_LT(reference::difference(item.value().grad(), arrays[key]), 1e-4) << item.key();
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Reference, LossCase,
                         testing::Values("normal", "one_empty_image", "empty", "crowded"),
                         [](const auto& each) { return std::string(each.param); });

class AssignerCase : public testing::TestWithParam<const char*> {};

TEST_P(AssignerCase, AssignsAsTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  auto in = reference::npz(std::string("tal_") + GetParam() + ".npz");

  const Assignment out = assign(in["pd_scores"], in["pd_bboxes"], in["anc_points"],
                                in["gt_labels"].squeeze(-1).to(torch::kLong), in["gt_bboxes"],
                                in["mask_gt"].squeeze(-1) > 0);

  EXPECT_TRUE(torch::equal(out.foreground, in["out_fg"]));
  EXPECT_TRUE(torch::equal(out.object.masked_select(out.foreground),
                           in["out_gt_idx"].masked_select(out.foreground)) ||
              GetParam() == std::string("one_empty_image"));
  EXPECT_LT(reference::difference(out.scores, in["out_scores"]), 5e-5);
  EXPECT_TRUE(
      torch::equal(out.boxes.index({out.foreground}), in["out_bboxes"].index({out.foreground})));
}
INSTANTIATE_TEST_SUITE_P(Reference, AssignerCase,
                         testing::Values("normal", "one_empty_image", "crowded"),
                         [](const auto& each) { return std::string(each.param); });

TEST(Assigner, LeavesEverythingBackgroundWithoutObjects) {
  const Assignment out = assign(torch::rand({2, 5, 3}), torch::rand({2, 5, 4}), torch::rand({5, 2}),
                                torch::zeros({2, 0}, torch::kLong), torch::zeros({2, 0, 4}),
                                torch::zeros({2, 0}, torch::kBool));

  EXPECT_FALSE(out.foreground.any().item<bool>());
  EXPECT_EQ(out.scores.sum().item<float>(), 0);
}

TEST(Boxes, OverlapAndItsGradientAreThoseOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  auto arrays = reference::npz("misc.npz");
  torch::Tensor a = arrays["a"].clone().set_requires_grad(true);

  const torch::Tensor overlap = complete_iou(a, arrays["b"]);
  overlap.sum().backward();

  EXPECT_LT(reference::difference(overlap.detach(), arrays["iou_CIoU"].squeeze(-1)), 1e-5);
  EXPECT_LT(reference::difference(a.grad(), arrays["ciou_grad_a"]), 1e-4);
}

TEST(Boxes, DistributionLossIsThatOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  auto arrays = reference::npz("misc.npz");
  torch::Tensor logits = arrays["dfl_pred"].clone().set_requires_grad(true);

  const torch::Tensor loss =
      distribution_focal_loss(logits.view({6, 4 * kRegMax}), arrays["dfl_target"]);
  loss.sum().backward();

  EXPECT_LT(reference::difference(loss.detach(), arrays["dfl_loss"].squeeze(-1)), 1e-5);
  EXPECT_LT(reference::difference(logits.grad(), arrays["dfl_grad"]), 1e-4);
}

TEST(Boxes, DistancesAndCornersAreInverse) {
  const torch::Tensor points = torch::tensor({{2.5F, 3.5F}, {0.5F, 0.5F}});
  const torch::Tensor distances = torch::tensor({{1.F, 2.F, 3.F, 4.F}, {0.5F, 0.5F, 0.5F, 0.5F}});

  const torch::Tensor boxes = boxes_from_distances(points, distances);

  EXPECT_TRUE(torch::allclose(distances_from_boxes(points, boxes, 15), distances));
  EXPECT_TRUE(torch::allclose(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes));
}

// The first steps of the reference's trajectory; later ones drift apart by rounding.
class Trajectory : public testing::TestWithParam<const char*> {};

TEST_P(Trajectory, BeginsAsThatOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  const nlohmann::json run = reference::json("traj.json").at(std::string("yolov8n_") + GetParam());
  const nlohmann::json cases = reference::json("fwd_yolov8n.json").at("loss");
  const bool is_sgd = GetParam() == std::string("SGD");
  const auto model = filled_model();
  const auto average = filled_model();
  model->train();
  Optimizer optimizer(*model, is_sgd ? OptimizerKind::kSgd : OptimizerKind::kAdamW, 5e-4);
  StepRates rates;
  rates.lr.fill(run.at("lr"));
  rates.momentum = run.at("momentum");

  constexpr std::size_t kSteps = 3;
  for (std::size_t step = 0; step < kSteps; ++step) {
    SCOPED_TRACE(step);
    const nlohmann::json expected = run.at("steps").at(step);
    const torch::Tensor x =
        reference::uniform(step % 2 == 0 ? "traj.x0" : "traj.x1", {2, 3, 96, 96}).to(torch::kFloat);
    const torch::Tensor targets =
        targets_of(cases.at(step % 2 == 0 ? "normal" : "crowded").at("targets"));
    optimizer.zero_grad();
    const LossValue loss = detection_loss(model->forward(x), model->strides(), targets, {}, 2, own);
    loss.total.backward();
    const double norm = optimizer.clip_gradients(10);
    optimizer.step(rates);
    update_ema(*average, *model, static_cast<std::int64_t>(step) + 1);

    const double total = expected.at("total"), recorded_norm = expected.at("grad_norm_before_clip");
    EXPECT_NEAR(loss.total.item<double>(), total, 1e-3 * total);
    EXPECT_NEAR(norm, recorded_norm, 3e-3 * recorded_norm);
    double parameters = 0, averaged = 0;
    for (const auto& item : model->parameters()) {
      parameters += item.to(torch::kDouble).abs().sum().item<double>();
    }
    for (const auto& [name, tensor] : state_tensors(*average)) {
      if (tensor.is_floating_point())
        averaged += tensor.to(torch::kDouble).abs().sum().item<double>();
    }
    EXPECT_NEAR(averaged, expected.at("ema_abs_sum").get<double>(), 1e-5 * averaged);
    EXPECT_NEAR(parameters, expected.at("param_abs_sum").get<double>(), 1e-5 * parameters);
  }
}
INSTANTIATE_TEST_SUITE_P(Reference, Trajectory, testing::Values("SGD", "AdamW"),
                         [](const auto& each) { return std::string(each.param); });

}  // namespace
}  // namespace trainer
