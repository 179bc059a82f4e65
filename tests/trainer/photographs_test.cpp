// SPDX-License-Identifier: GPL-3.0-or-later
//
// From a file of public weights and a photograph to boxes, against what the reference finds.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>

#include "tests/trainer/reference_numbers.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/detection.h"
#include "trainer/evaluate.h"
#include "trainer/image.h"
#include "trainer/tensor_file.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

constexpr int kSide = 640;

class Photographs : public testing::TestWithParam<const char*> {
 protected:
  // The recorded state dict as a file without metadata, read as a user's own would be.
  std::shared_ptr<DetectionModel> model() {
    const TempFolder folder;
    TensorFile file;
    const std::string path =
        reference::folder().string() + "/weights/" + GetParam() + "_coco_merged_statedict_fp16.npz";
    for (const auto& [name, array] : reference::read_npz(path)) {
      file.tensors.emplace_back(name, reference::to_tensor(array));
    }
    write_tensor_file(folder.at("w"), file);
    auto model = load_model(folder.at("w")).model;
    model->eval();
    return model;
  }
};

torch::Tensor to_input(const cv::Mat& image, const Letterbox& letterbox) {
  torch::Tensor planes = torch::empty({1, 3, kSide, kSide}, torch::kUInt8);
  write_rgb_planes(apply_letterbox(image, letterbox), planes.data_ptr<std::uint8_t>());
  return planes.to(torch::kFloat32).div(255);
}

float overlap(const Box& a, const Box& b) {
  const float shared = intersection(a, b);
  return shared / (a.area() + b.area() - shared);
}

TEST_P(Photographs, GiveTheBoxesOfTheReference) {
  SKIP_WITHOUT_REFERENCE("e2e_coco8.json");
  torch::NoGradGuard no_grad;
  const auto network = model();
  EXPECT_EQ(network->name(), GetParam());
  const nlohmann::json all = reference::json("e2e_coco8.json");
  NmsOptions options;
  options.confidence = 0.25;
  options.multi_label = false;

  int images = 0;
  for (const auto& [key, expected] : all.items()) {
    const std::string prefix = std::string(GetParam()) + "/";
    if (!key.starts_with(prefix)) continue;
    SCOPED_TRACE(key);
    ++images;
    const ReadImage image =
        read_image(reference::folder().string() + "/coco8/images/" + key.substr(prefix.size()));
    ASSERT_TRUE(image.problem.empty()) << image.problem;
    const Letterbox box = plan_letterbox(image.pixels.size(), {kSide, kSide});
    const torch::Tensor input = to_input(image.pixels, box);
    EXPECT_NEAR(input.mean().item<double>(), expected.at("input_mean").get<double>(), 2e-5);
    const torch::Tensor raw = network->decode(network->forward(input));
    const double sum = expected.at("raw_abs_sum");
    EXPECT_NEAR(raw.to(torch::kDouble).abs().sum().item<double>(), sum, 1e-4 * sum);

    if (key.ends_with("036.jpg")) {  // The whole output is recorded: every seventh column of it.
      const auto arrays = reference::npz("e2e_coco8.npz");
      constexpr std::int64_t kEvery = 7;
      EXPECT_LT(reference::difference(raw[0].slice(1, 0, raw.size(2), kEvery),
                                      arrays.at(std::string(GetParam()) + "_036_raw")),
                1e-4);
    }

    const torch::Tensor found = non_max_suppression(raw, options)[0];
    const auto& wanted = expected.at("dets_xyxy_conf_cls");
    ASSERT_EQ(static_cast<std::size_t>(found.size(0)), wanted.size());
    const auto rows = found.accessor<float, 2>();
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      SCOPED_TRACE(i);
      const auto row = rows[static_cast<std::int64_t>(i)];
      const auto clip = [](float value, int limit) {
        return std::clamp(value, 0.F, static_cast<float>(limit));
      };
      const auto x = [&](int at) {
        return clip((row[at] - static_cast<float>(box.left)) / static_cast<float>(box.gain),
                    image.pixels.cols);
      };
      const auto y = [&](int at) {
        return clip((row[at] - static_cast<float>(box.top)) / static_cast<float>(box.gain),
                    image.pixels.rows);
      };
      const Box expected_box{wanted[i][0], wanted[i][1], wanted[i][2], wanted[i][3]};
      EXPECT_WITHIN("photographs, 1 - IoU of a box",
                    1.0 - overlap({x(0), y(1), x(2), y(3)}, expected_box), 0.01);
      EXPECT_WITHIN("photographs, score", std::abs(double{row[4]} - wanted[i][4].get<double>()), 1e-3);
      EXPECT_EQ(row[5], wanted[i][5].get<float>());
    }
  }
  EXPECT_EQ(images, 8);
}
INSTANTIATE_TEST_SUITE_P(Reference, Photographs, testing::Values("yolov8n", "yolo11n"),
                         [](const auto& each) { return std::string(each.param); });

}  // namespace
}  // namespace trainer
