// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/evaluate.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "reference.h"
#include "trainer/average_precision.h"

namespace {

using trainer::Batch;
using trainer::EvalMetrics;
using trainer::Evaluator;
using trainer::NmsOptions;
using trainer::non_max_suppression;

torch::Tensor tensor(const reference::Array& array) {
  std::vector<float> values = array.as<float>();
  return torch::from_blob(values.data(), array.shape, torch::kFloat32).clone();
}

torch::Tensor rows(std::vector<std::vector<float>> values, std::int64_t columns) {
  std::vector<float> flat;
  for (const auto& row : values) flat.insert(flat.end(), row.begin(), row.end());
  return torch::from_blob(flat.data(), {std::ssize(values), columns}, torch::kFloat32).clone();
}

TEST(NonMaxSuppression, AgreesWithTheReferenceToTheBit) {
  SKIP_WITHOUT_REFERENCE("nms.npz");
  const auto arrays = reference::read_npz(reference::vectors("nms.npz"));
  const nlohmann::json cases = reference::read_json(reference::vectors("nms.json"));
  const torch::Tensor predictions = tensor(arrays.at("pred"));
  int compared = 0;
  for (const auto& [name, arguments] : cases.items()) {
    SCOPED_TRACE(name);
    const NmsOptions options{.confidence = arguments["conf_thres"],
                             .iou = arguments["iou_thres"],
                             .max_det = arguments.value("max_det", 300),
                             .multi_label = arguments.value("multi_label", false),
                             .class_agnostic = arguments.value("agnostic", false),
                             .classes = arguments.value("classes", std::vector<int>())};

    const std::vector<torch::Tensor> result = non_max_suppression(predictions, options);

    ASSERT_EQ(result.size(), 2U);
    for (std::size_t i = 0; i < 2; ++i) {
      SCOPED_TRACE(i);
      const torch::Tensor expected = tensor(arrays.at(name + "_out" + std::to_string(i)));
      ASSERT_EQ(result[i].sizes(), expected.sizes());
      EXPECT_TRUE(torch::equal(result[i], expected));
    }
    ++compared;
  }
  EXPECT_EQ(compared, 6);
}

TEST(NonMaxSuppression, KeepsBoxesOfDifferentClassesUnlessAgnostic) {
  const torch::Tensor predictions =
      torch::tensor({{10.F, 10.F}, {10.F, 10.F}, {8.F, 8.F}, {8.F, 8.F}, {.9F, 0.F}, {0.F, .8F}})
          .unsqueeze(0);

  EXPECT_EQ(non_max_suppression(predictions, {.confidence = 0.1})[0].size(0), 2);
  EXPECT_EQ(
      non_max_suppression(predictions, {.confidence = 0.1, .class_agnostic = true})[0].size(0), 1);
}

TEST(NonMaxSuppression, SurvivesNumbersThatAreNone) {
  const float nan = std::nanf(""), inf = INFINITY;
  const torch::Tensor predictions = torch::tensor({{nan, 10.F, inf},
                                                   {10.F, nan, -inf},
                                                   {8.F, 8.F, inf},
                                                   {8.F, 8.F, nan},
                                                   {.9F, nan, .5F},
                                                   {nan, nan, .4F}})
                                        .unsqueeze(0);

  const auto result = non_max_suppression(predictions, {.confidence = 0.1});

  EXPECT_LE(result[0].size(0), 4);
  EXPECT_THROW((void)non_max_suppression(torch::zeros({1, 4, 3}), {}), std::invalid_argument);
}

// Images of map.npz as batches: the frame is the original, so nothing is mapped.
struct Image {
  Batch batch;
  std::vector<torch::Tensor> detections;
};

std::vector<Image> reference_images(const std::map<std::string, reference::Array>& arrays) {
  std::vector<Image> images;
  constexpr std::int64_t kSide = 640;
  for (int i = 0; i < 12; ++i) {
    const std::string name = "img" + std::to_string(i);
    Image image;
    image.detections.push_back(tensor(arrays.at(name + "_pred")));
    const torch::Tensor truth = tensor(arrays.at(name + "_gt"));
    const auto column = [&](std::int64_t k) { return truth.slice(1, k, k + 1); };
    image.batch.images = torch::zeros({1, 3, kSide, kSide}, torch::kUInt8);
    image.batch.targets =
        torch::cat({torch::zeros({truth.size(0), 1}), column(0),
                    (column(1) + column(3)) / 2 / kSide, (column(2) + column(4)) / 2 / kSide,
                    (column(3) - column(1)) / kSide, (column(4) - column(2)) / kSide},
                   1);
    image.batch.sources.push_back({.index = i, .width = kSide, .height = kSide});
    images.push_back(std::move(image));
  }
  return images;
}

TEST(Evaluator, AgreesWithTheReference) {
  SKIP_WITHOUT_REFERENCE("map.npz");
  const auto arrays = reference::read_npz(reference::vectors("map.npz"));
  const nlohmann::json expected = reference::read_json(reference::vectors("map.json"));
  Evaluator evaluator({"a", "b", "c", "d"});

  for (const Image& image : reference_images(arrays)) evaluator.add(image.batch, image.detections);
  const EvalMetrics metrics = evaluator.compute();

  const nlohmann::json& results = expected["results"];
  EXPECT_WITHIN("average precision, all classes",
                std::abs(metrics.precision - results["metrics/precision(B)"].get<double>()), 1e-6);
  EXPECT_WITHIN("average precision, all classes",
                std::abs(metrics.recall - results["metrics/recall(B)"].get<double>()), 1e-6);
  EXPECT_WITHIN("average precision, all classes",
                std::abs(metrics.map50 - results["metrics/mAP50(B)"].get<double>()), 1e-6);
  EXPECT_WITHIN("average precision, all classes",
                std::abs(metrics.map50_95 - results["metrics/mAP50-95(B)"].get<double>()), 1e-6);
  EXPECT_NEAR(metrics.fitness(), results["fitness"].get<double>(), 1e-6);
  ASSERT_EQ(metrics.classes.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_WITHIN("average precision, each class",
                  std::abs(metrics.classes[i].ap50 - expected["ap50"][i].get<double>()), 1e-6);
    EXPECT_WITHIN("average precision, each class",
                  std::abs(metrics.classes[i].ap50_95 - expected["ap_per_class"][i].get<double>()), 1e-6);
    EXPECT_NEAR(metrics.classes[i].precision, arrays.at("apc_p").as<double>()[i], 1e-6);
    EXPECT_NEAR(metrics.classes[i].recall, arrays.at("apc_r").as<double>()[i], 1e-6);
  }
  EXPECT_EQ(metrics.images, 12);
}

TEST(AveragePrecision, FollowsTheCurvesOfTheReference) {
  SKIP_WITHOUT_REFERENCE("map.npz");
  const auto arrays = reference::read_npz(reference::vectors("map.npz"));
  std::vector<std::vector<trainer::Prediction>> predictions(4);
  std::vector<std::int64_t> instances(4);
  for (int i = 0; i < 12; ++i) {
    const std::string name = "img" + std::to_string(i);
    const auto found = arrays.at(name + "_pred").as<float>();
    const std::string matches = arrays.at(name + "_tp").bytes;
    for (std::size_t d = 0; d < found.size() / 6; ++d) {
      trainer::Prediction prediction{.score = found[6 * d + 4]};
      for (std::size_t t = 0; t < 10; ++t) {
        if (matches[10 * d + t] != 0) {
          prediction.matches = static_cast<std::uint16_t>(prediction.matches | 1U << t);
        }
      }
      predictions[static_cast<std::size_t>(found[6 * d + 5])].push_back(prediction);
    }
    const auto truth = arrays.at(name + "_gt").as<float>();
    for (std::size_t t = 0; t < truth.size() / 5; ++t) {
      ++instances[static_cast<std::size_t>(truth[5 * t])];
    }
  }
  const auto precision = arrays.at("p_curve").as<float>(),
             recall = arrays.at("r_curve").as<float>();
  const auto ap = arrays.at("apc_ap").as<double>();
  for (std::size_t cls = 0; cls < 4; ++cls) {
    SCOPED_TRACE(cls);
    const trainer::ClassCurves curves = trainer::class_curves(predictions[cls], instances[cls]);
    for (std::size_t i = 0; i < trainer::kCurvePoints; ++i) {
      ASSERT_NEAR(curves.precision[i], precision[cls * trainer::kCurvePoints + i], 1e-6) << i;
      ASSERT_NEAR(curves.recall[i], recall[cls * trainer::kCurvePoints + i], 1e-6) << i;
    }
    for (std::size_t t = 0; t < 10; ++t) EXPECT_NEAR(curves.ap[t], ap[10 * cls + t], 1e-9);
  }
}

TEST(Evaluator, GivesTheSameOverSeveralRanks) {
  SKIP_WITHOUT_REFERENCE("map.npz");
  const auto images = reference_images(reference::read_npz(reference::vectors("map.npz")));
  const std::vector<std::string> names = {"a", "b", "c", "d"};
  Evaluator whole(names);
  std::vector<Evaluator> ranks(3, Evaluator(names));
  for (std::size_t i = 0; i < images.size(); ++i) {
    whole.add(images[i].batch, images[i].detections);
    ranks[i % 3].add(images[i].batch, images[i].detections);
  }

  Evaluator merged(names);
  for (const Evaluator& rank : ranks) merged.merge(rank.serialize());

  const EvalMetrics expected = whole.compute(), metrics = merged.compute();
  EXPECT_EQ(metrics.map50_95, expected.map50_95);
  EXPECT_EQ(metrics.precision, expected.precision);
  EXPECT_EQ(metrics.images, expected.images);
  EXPECT_EQ(metrics.instances, expected.instances);
  EXPECT_EQ(metrics.classes[2].images, expected.classes[2].images);
}

TEST(Evaluator, RefusesBytesThatAreNoPart) {
  Evaluator evaluator({"a", "b"});
  const std::vector<std::byte> good = evaluator.serialize();
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_THROW(evaluator.merge(std::span(good).first(size)), std::runtime_error) << size;
  }
  std::vector<std::byte> longer = good;
  longer.push_back(std::byte{0});
  EXPECT_THROW(evaluator.merge(longer), std::runtime_error);
  EXPECT_THROW(evaluator.merge(Evaluator({"a"}).serialize()), std::runtime_error);
}

TEST(Evaluator, MapsBoxesBackToTheOriginalImage) {
  Batch batch;
  batch.images = torch::zeros({1, 3, 64, 64}, torch::kUInt8);
  batch.sources.push_back(
      {.index = 0, .width = 640, .height = 320, .gain_x = .1F, .gain_y = .1F, .pad_y = 16});
  batch.targets = rows({{0, 0, .25F, .5F, .25F, .25F}}, 6);  // 8..24 x 24..40.
  Evaluator evaluator({"a"});

  evaluator.add(batch, {rows({{8, 24, 24, 40, .9F, 0}, {-20, 0, 1, 16.1F, .8F, 0}}, 6)});

  const EvalMetrics metrics = evaluator.compute();
  EXPECT_NEAR(metrics.map50_95, 0.995, 1e-9);
  EXPECT_EQ(metrics.classes[0].instances, 1);
  EXPECT_EQ(metrics.classes[0].images, 1);
}

TEST(Evaluator, LeavesUnreadableImagesOutAndCountsNothingAsZero) {
  Batch batch;
  batch.images = torch::zeros({1, 3, 64, 64}, torch::kUInt8);
  batch.sources.push_back({.index = -1, .width = 64, .height = 64});
  batch.targets = torch::zeros({0, 6});
  Evaluator evaluator({"a"});

  evaluator.add(batch, {rows({{0, 0, 9, 9, .9F, 0}}, 6)});

  const EvalMetrics metrics = evaluator.compute();
  EXPECT_EQ(metrics.images, 0);
  EXPECT_EQ(metrics.map50, 0);
  EXPECT_TRUE(metrics.classes.empty());
}

}  // namespace
