// SPDX-License-Identifier: GPL-3.0-or-later
//
// The verb predict, as a user runs it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/videoio.hpp>
#include <string>
#include <vector>

#include "tests/trainer/program.h"
#include "tests/trainer/reference_weights.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/media.h"
#include "trainer/model.h"
#include "trainer/predictions.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

namespace fs = std::filesystem;

TEST(Predict, FindsWhatTheReferenceFindsInPhotographs) {
  const std::string name = "yolov8n_coco_merged";
  if (!fs::exists(reference::weights(name))) GTEST_SKIP() << "no reference weights";
  const TempFolder folder;
  std::vector<std::string> classes;
  for (int i = 0; i < 80; ++i) classes.push_back(fmt::format("c{}", i));
  reference::convert_weights(name, "yolov8n", classes, 640, folder.at("w.safetensors"));

  const ProgramRun run = run_trainer(fmt::format(
      "predict --weights {} --source {}/coco8/images/val --out {} --no-rect --save-txt --save-conf",
      folder.at("w.safetensors"), reference::folder().string(), folder.at("out")));

  ASSERT_EQ(run.code, 0) << run.errors;
  const auto expected = reference::read_json(reference::vectors("e2e_coco8.json"));
  const auto found = reference::read_json(folder.at("out/predictions.json"));
  ASSERT_EQ(found.size(), 4U);
  for (const auto& image : found) {
    const fs::path path(image["source"].get<std::string>());
    SCOPED_TRACE(path);
    const auto& wanted =
        expected.at("yolov8n/val/" + path.filename().string()).at("dets_xyxy_conf_cls");
    ASSERT_EQ(image["detections"].size(), wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const auto& detection = image["detections"][i];
      EXPECT_EQ(detection["class"], static_cast<int>(wanted[i][5].get<double>()));
      EXPECT_NEAR(detection["score"].get<double>(), wanted[i][4].get<double>(), 1e-3);
      for (std::size_t k = 0; k < 4; ++k) {
        EXPECT_NEAR(detection["box"][k].get<double>(), wanted[i][k].get<double>(), 0.2);
      }
    }
    const std::string labels =
        reference::read_text(folder.at("out/labels/" + path.stem().string() + ".txt"));
    EXPECT_EQ(std::count(labels.begin(), labels.end(), '\n'), std::ssize(wanted));
    const cv::Mat drawn = cv::imread(folder.at("out/" + path.filename().string()));
    EXPECT_EQ(drawn.size(), cv::imread(path.string()).size());
  }
}

// A network that finds something everywhere, and most of all the class "right".
std::string eager_weights(const TempFolder& folder) {
  DetectionModel model("yolov8n", 2);
  torch::NoGradGuard no_grad;
  for (auto& [name, tensor] : state_tensors(model)) {
    if (name.find(".cv3.") == std::string::npos || !name.ends_with(".2.bias")) continue;
    tensor.copy_(torch::tensor({3.F, 6.F}));
  }
  const std::string path = folder.at("eager.safetensors");
  save_weights(path, model, {.class_names = {"left", "right"}, .imgsz = 64});
  return path;
}

cv::Mat noise(int width, int height) {
  cv::Mat picture(height, width, CV_8UC3);
  cv::randu(picture, 0, 255);
  return picture;
}

TEST(Predict, SkipsABrokenPictureAndSaysSoWithItsCode) {
  const TempFolder folder;
  const std::string weights = eager_weights(folder);
  fs::create_directories(folder.at("in"));
  cv::imwrite(folder.at("in/a.png"), noise(80, 60));
  folder.write("in/b.jpg", "\xff\xd8\xff\xe0");
  folder.write("in/notes.txt", "not a picture");

  const ProgramRun run = run_trainer(fmt::format(
      "predict --weights {} --source {} --out {} --json --max-det 3 --classes right --save-txt",
      weights, folder.at("in"), folder.at("out")));

  EXPECT_EQ(run.code, 20);
  EXPECT_NE(run.errors.find("in/b.jpg: is a JPEG without a size"), std::string::npos)
      << run.errors;
  const auto summary = nlohmann::json::parse(run.output);
  EXPECT_EQ(summary["skipped"].size(), 1U);
  EXPECT_EQ(summary["frames"], 1);
  const auto found = reference::read_json(folder.at("out/predictions.json"));
  ASSERT_EQ(found.size(), 1U);
  ASSERT_EQ(found[0]["detections"].size(), 3U);
  for (const auto& detection : found[0]["detections"]) EXPECT_EQ(detection["name"], "right");
  EXPECT_TRUE(fs::exists(folder.at("out/a.png")));
  EXPECT_FALSE(fs::exists(folder.at("out/b.jpg")));
}

TEST(Predict, NamesAJpegThatIsCutShortAndUsesIt) {
  const TempFolder folder;
  const std::string weights = eager_weights(folder);
  std::vector<unsigned char> jpeg;
  cv::imencode(".jpg", noise(80, 60), jpeg);
  folder.write("cut.jpg", std::string(jpeg.begin(), jpeg.end() - 30));

  const ProgramRun run =
      run_trainer(fmt::format("predict --weights {} --source {} --out {}", weights,
                              folder.at("cut.jpg"), folder.at("out")));

  EXPECT_EQ(run.code, 0) << run.errors;
  EXPECT_NE(run.errors.find("cut.jpg: is cut short: "), std::string::npos) << run.errors;
  EXPECT_NE(run.errors.find("It is used all the same.\n"), std::string::npos) << run.errors;
}

TEST(Predict, WritesAJpegWhereTheFormatOfTheSourceCannotBeWritten) {
  const TempFolder folder;
  const std::string weights = eager_weights(folder);
  fs::create_directories(folder.at("in"));
  cv::imwrite(folder.at("in/b.jpg"), noise(80, 60));
  fs::rename(folder.at("in/b.jpg"), folder.at("in/b.mpo"));
  cv::imwrite(folder.at("in/a.png"), noise(80, 60));
  cv::imwrite(folder.at("in/c.tif"), noise(80, 60));
  fs::rename(folder.at("in/c.tif"), folder.at("in/c.dng"));

  const ProgramRun run =
      run_trainer(fmt::format("predict --weights {} --source {} --out {} --max-det 3", weights,
                              folder.at("in"), folder.at("out")));

  EXPECT_EQ(run.code, 0) << run.errors;
  EXPECT_EQ(reference::read_json(folder.at("out/predictions.json")).size(), 3U);
  for (const char* name : {"a.png", "b.jpg", "c.jpg"}) {
    EXPECT_EQ(cv::imread(folder.at(std::string("out/") + name)).size(), cv::Size(80, 60)) << name;
  }
}

TEST(Predict, GivesTheSameToRoundingInEveryBatch) {
  const TempFolder folder;
  const std::string weights = eager_weights(folder);
  fs::create_directories(folder.at("in"));
  for (int i = 0; i < 5; ++i) {
    cv::imwrite(folder.at(fmt::format("in/{}.png", i)), noise(60 + 30 * (i % 3), 70));
  }
  const auto found = [&](int batch) {
    const std::string out = folder.at(fmt::format("out{}", batch));
    const ProgramRun run =
        run_trainer(fmt::format("predict --weights {} --source '{}/*.png' --out {} --batch {} "
                                "--no-images --max-det 5",
                                weights, folder.at("in"), out, batch));
    EXPECT_EQ(run.code, 0) << run.errors;
    EXPECT_FALSE(fs::exists(out + "/0.png"));
    return reference::read_json(out + "/predictions.json");
  };

  const auto one = found(1), many = found(4);

  ASSERT_EQ(one.size(), 5U);
  ASSERT_EQ(many.size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) {
    ASSERT_EQ(one[i]["detections"].size(), many[i]["detections"].size());
    for (std::size_t k = 0; k < one[i]["detections"].size(); ++k) {
      const auto &alone = one[i]["detections"][k], &together = many[i]["detections"][k];
      EXPECT_EQ(alone["class"], together["class"]);
      EXPECT_NEAR(alone["score"].get<double>(), together["score"].get<double>(), 1e-5);
      for (std::size_t side = 0; side < 4; ++side) {
        EXPECT_NEAR(alone["box"][side].get<double>(), together["box"][side].get<double>(), 0.01);
      }
    }
  }
}

TEST(Predict, ReadsAndWritesAVideoFrameByFrame) {
  const TempFolder folder;
  const std::string weights = eager_weights(folder);
  cv::VideoWriter writer(folder.at("clip.avi"), cv::VideoWriter::fourcc('M', 'J', 'P', 'G'), 10,
                         {96, 64});
  if (!writer.isOpened()) GTEST_SKIP() << "this OpenCV writes no videos";
  for (int i = 0; i < 7; ++i) writer.write(cv::Mat(64, 96, CV_8UC3, cv::Scalar::all(30 * i)));
  writer.release();
  folder.write("broken.mp4", "no video");

  const ProgramRun run = run_trainer(
      fmt::format("predict --weights {} --source {} --source {} --out {} --batch 3 --save-txt",
                  weights, folder.at("clip.avi"), folder.at("broken.mp4"), folder.at("out")));

  EXPECT_EQ(run.code, 20) << run.errors;
  EXPECT_NE(run.errors.find("broken.mp4: is no video"), std::string::npos) << run.errors;
  const auto found = reference::read_json(folder.at("out/predictions.json"));
  ASSERT_EQ(found.size(), 7U);
  EXPECT_EQ(found[6]["frame"], 7);
  EXPECT_TRUE(fs::exists(folder.at("out/labels/clip_7.txt")));
  cv::VideoCapture made(folder.at("out/clip.mp4"));
  int frames = 0;
  for (cv::Mat frame; made.read(frame); ++frames) EXPECT_EQ(frame.size(), cv::Size(96, 64));
  EXPECT_EQ(frames, 7);
  EXPECT_NEAR(made.get(cv::CAP_PROP_FPS), 10, 0.1);
}

TEST(Predict, RefusesWhatIsNotThere) {
  const TempFolder folder;
  const std::string weights = eager_weights(folder);
  cv::imwrite(folder.at("a.png"), noise(64, 64));
  const auto refusal = [&](const std::string& arguments) {
    const ProgramRun run = run_trainer(
        fmt::format("predict --weights {} --out {} {}", weights, folder.at("out"), arguments));
    EXPECT_EQ(run.code, 20) << arguments;
    return run.errors;
  };

  EXPECT_NE(refusal("--source /nowhere/a.png").find("/nowhere/a.png: no such file"),
            std::string::npos);
  EXPECT_NE(refusal(fmt::format("--source {} --classes up", folder.at("a.png")))
                .find("--classes up: the weights know the classes 0 to 1: left, right."),
            std::string::npos);
  EXPECT_FALSE(fs::exists(folder.at("out/predictions.json")));
}

TEST(Media, AreFoundOnceWithNamesOfTheirOwn) {
  const TempFolder folder;
  for (const std::string name : {"x/cat.jpg", "x/dog.png", "x/clip.MOV", "x/a.txt", "y/cat.png"}) {
    folder.write(name, "content");
  }

  const std::vector<MediaSource> sources =
      find_media({folder.at("x/dog.png"), folder.at("x"), folder.at("*/cat.*")});

  std::vector<std::string> stems;
  for (const MediaSource& source : sources) stems.push_back(source.stem);
  EXPECT_EQ(stems, (std::vector<std::string>{"dog", "cat", "clip", "cat_2"}));
  EXPECT_EQ(sources[2].kind, MediaSource::Kind::kVideo);
  EXPECT_THROW((void)find_media({folder.at("x/a.txt")}), std::invalid_argument);
  EXPECT_THROW((void)find_media({folder.at("*.bmp")}), std::invalid_argument);
}

TEST(Media, PicturesAndFramesOfVideosHaveNamesOfTheirOwn) {
  const TempFolder folder;
  for (const std::string name : {"a/clip.avi", "a/clip_01.jpg", "a/clip_2.jpg", "a/clip_2.mp4",
                                 "b/dog_7.jpg", "b/dog.mkv", "b/dog_7_3.png"}) {
    folder.write(name, "content");
  }

  std::vector<std::string> stems;
  for (const MediaSource& source :
       find_media({folder.at("a"), folder.at("b/dog_7.jpg"), folder.at("b")})) {
    stems.push_back(source.stem);
  }

  // clip.avi, clip_01.jpg, clip_2.jpg, clip_2.mp4; dog_7.jpg, dog.mkv, dog_7_3.png
  EXPECT_EQ(stems, (std::vector<std::string>{"clip", "clip_01", "clip_2_2", "clip_2_3", "dog_7",
                                             "dog_2", "dog_7_3"}));
}

TEST(Predictions, AreWrittenAsOtherProgramsReadThem) {
  const std::vector<Detection> found = {{{10, 20, 40, 60}, .5F, 2}};

  EXPECT_EQ(to_label_rows(found, 100, 200, Scores::kWithout), "2 0.25 0.2 0.3 0.2\n");
  EXPECT_EQ(to_label_rows(found, 100, 200, Scores::kWith), "2 0.25 0.2 0.3 0.2 0.5\n");
  EXPECT_EQ(to_coco_results("/data/000042.jpg", found).dump(),
            R"([{"image_id":42,"file_name":"000042.jpg","category_id":3,)"
            R"("bbox":[10.0,20.0,30.0,40.0],"score":0.5}])");
  EXPECT_EQ(to_coco_results("/data/a42.jpg", found)[0]["image_id"], "a42");
}

}  // namespace
}  // namespace trainer
