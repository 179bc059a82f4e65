// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "trainer/chart.h"
#include "trainer/contract/exit_code.h"
#include "trainer/contract/json_text.h"
#include "trainer/draw.h"
#include "trainer/durable_file.h"
#include "trainer/image.h"
#include "trainer/media.h"
#include "trainer/predictions.h"
#include "trainer/predictor.h"
#include "trainer/train.h"
#include "trainer/verbs.h"
#include "trainer/weights_file.h"

namespace trainer {

namespace {

struct PredictRequest {
  std::string weights, out;
  std::vector<std::string> sources;
  std::vector<std::string> classes;  // Numbers or names.
  int imgsz = 0;                     // 0: that of the training.
  int batch = 8;
  double confidence = 0.25, iou = 0.7;
  int max_det = 300;
  bool is_rect = true;
  bool saves_text = false, saves_scores = false, saves_pictures = true, is_json = false;
};

std::vector<int> class_numbers(const std::vector<std::string>& given,
                               const std::vector<std::string>& names) {
  std::vector<int> numbers;
  for (const std::string& text : given) {
    const auto found = std::find(names.begin(), names.end(), text);
    int number = static_cast<int>(found - names.begin());
    const bool is_number = !text.empty() && text.size() < 6 &&
                           text.find_first_not_of("0123456789") == std::string::npos;
    if (found == names.end() && is_number) number = std::stoi(text);
    if (number >= static_cast<int>(names.size())) {
      throw BadInput(fmt::format("--classes {}: the weights know the classes 0 to {}: {}.", text,
                                 names.size() - 1, fmt::join(names, ", ")));
    }
    numbers.push_back(number);
  }
  return numbers;
}

// "3 RBC, 1 WBC"
std::string counted(const std::vector<Detection>& detections,
                    const std::vector<std::string>& names) {
  std::vector<int> counts(names.size(), 0);
  for (const Detection& found : detections) ++counts.at(static_cast<std::size_t>(found.cls));
  std::string text;
  for (std::size_t cls = 0; cls < names.size(); ++cls) {
    if (counts[cls] == 0) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", counts[cls], names[cls]);
  }
  return text.empty() ? "nothing" : text;
}

struct Frame {
  cv::Mat picture;
  int number = 0;  // Of a video, from 1; 0: a picture.
};

class PredictionRun {
 public:
  PredictionRun(const PredictRequest& request, const Launch& launch)
      : request_(request), loaded_(load_given_model(request.weights)) {
    torch::set_num_threads(launch.cpus);
    cv::setNumThreads(launch.cpus);
    Predictor::Options options;
    options.imgsz = request.imgsz > 0 ? request.imgsz : loaded_.info.imgsz;
    if (options.imgsz % 32 != 0) {
      throw BadInput(fmt::format("imgsz = {} is no multiple of 32. Use {}.", options.imgsz,
                                 (options.imgsz + 31) / 32 * 32));
    }
    options.frame = request.is_rect ? ValFrame::kRect : ValFrame::kSquare;
    options.nms.confidence = request.confidence;
    options.nms.iou = request.iou;
    options.nms.max_det = request.max_det;
    options.nms.classes = class_numbers(request.classes, names());
    const torch::Device device = torch::cuda::is_available() ? torch::kCUDA : torch::kCPU;
    predictor_ = std::make_unique<Predictor>(loaded_.model, options, device);
    shown_names_ = drawable_names(names());
    sources_ = find_media(request.sources);
    std::filesystem::create_directories(request.saves_text ? request.out + "/labels" : request.out);
    entries_ = std::make_unique<DurableFile>(request.out + "/predictions.json");
  }

  int run() {
    put("[");
    for (std::size_t i = 0; i < sources_.size();) {
      if (sources_[i].kind == MediaSource::Kind::kVideo) {
        predict_video(sources_[i++]);
      } else {
        i = predict_images(i);
      }
    }
    put(is_first_entry_ ? "]\n" : "\n]\n");
    entries_->commit();
    if (request_.is_json) print_summary();
    return static_cast<int>(skipped_.empty() ? contract::ExitCode::kFinished
                                             : contract::ExitCode::kBadInput);
  }

 private:
  [[nodiscard]] const std::vector<std::string>& names() const { return loaded_.info.class_names; }

  void put(std::string_view text) { entries_->write(std::as_bytes(std::span(text))); }

  void skip(const std::string& path, const std::string& problem) {
    fmt::print(stderr, "{}: {} It is skipped.\n", path, problem);
    skipped_.push_back(path);
  }

  // The pictures from `first` up to a batch of them or a video. Returns where to go on.
  std::size_t predict_images(std::size_t first) {
    std::vector<cv::Mat> pictures;
    std::vector<const MediaSource*> read;
    std::size_t i = first;
    for (; i < sources_.size() && pictures.size() < static_cast<std::size_t>(request_.batch); ++i) {
      if (sources_[i].kind == MediaSource::Kind::kVideo) break;
      ReadImage image = read_image(sources_[i].path);
      if (image.pixels.empty()) {
        skip(sources_[i].path, image.problem);
        continue;
      }
      if (!image.note.empty()) {
        fmt::print(stderr, "{}: {} It is used all the same.\n", sources_[i].path, image.note);
      }
      pictures.push_back(image.pixels);
      read.push_back(&sources_[i]);
    }
    const auto detections = predictor_->detect(pictures);
    for (std::size_t k = 0; k < read.size(); ++k) {
      note(*read[k], {pictures[k], 0}, detections[k]);
      if (!request_.saves_pictures) continue;
      draw_boxes(pictures[k], detections[k], shown_names_);
      write_picture(request_.out + "/" + read[k]->stem + writable_extension(read[k]->path),
                    pictures[k]);
    }
    return i;
  }

  void predict_video(const MediaSource& source) {
    std::unique_ptr<VideoReader> reader;
    try {
      reader = std::make_unique<VideoReader>(source.path);
    } catch (const std::runtime_error& error) {
      return skip(source.path, std::string(error.what()).substr(source.path.size() + 2));
    }
    std::unique_ptr<VideoFile> video;
    int frames = 0;
    for (bool is_at_end = false; !is_at_end;) {
      std::vector<cv::Mat> pictures;
      cv::Mat picture;
      while (pictures.size() < static_cast<std::size_t>(request_.batch)) {
        is_at_end = !reader->next(picture);
        if (is_at_end) break;
        pictures.push_back(picture);
      }
      const auto detections = predictor_->detect(pictures);
      for (std::size_t k = 0; k < pictures.size(); ++k) {
        note(source, {pictures[k], ++frames}, detections[k]);
        if (!request_.saves_pictures) continue;
        if (!video) {
          video = std::make_unique<VideoFile>(request_.out + "/" + source.stem + ".mp4",
                                              reader->frames_per_s(), pictures[k].size());
        }
        draw_boxes(pictures[k], detections[k], shown_names_);
        video->add(pictures[k]);
      }
    }
  }

  void note(const MediaSource& source, const Frame& frame,
            const std::vector<Detection>& detections) {
    nlohmann::ordered_json entry = {{"source", source.path}};
    if (frame.number > 0) entry["frame"] = frame.number;
    entry["width"] = frame.picture.cols;
    entry["height"] = frame.picture.rows;
    entry["detections"] = nlohmann::ordered_json::array();
    for (const Detection& found : detections) {
      entry["detections"].push_back(to_json(found, names()));
    }
    put((is_first_entry_ ? "\n" : ",\n") + contract::json_text(entry));
    is_first_entry_ = false;
    ++frames_;
    detections_ += static_cast<std::int64_t>(detections.size());

    const std::string place =
        frame.number > 0 ? fmt::format("{} frame {}", source.path, frame.number) : source.path;
    if (!request_.is_json) {
      fmt::print("{}: {} x {}, {}\n", place, frame.picture.cols, frame.picture.rows,
                 counted(detections, names()));
    }
    if (!request_.saves_text || detections.empty()) return;  // No file: nothing was found.
    const std::string stem =
        frame.number > 0 ? fmt::format("{}_{}", source.stem, frame.number) : source.stem;
    write_durably(fmt::format("{}/labels/{}.txt", request_.out, stem),
                  to_label_rows(detections, frame.picture.cols, frame.picture.rows,
                                request_.saves_scores ? Scores::kWith : Scores::kWithout));
  }

  void print_summary() const {
    const nlohmann::ordered_json summary = {{"ok", skipped_.empty()},     {"out", request_.out},
                                            {"sources", sources_.size()}, {"frames", frames_},
                                            {"detections", detections_},  {"skipped", skipped_}};
    fmt::print("{}\n", contract::json_text(summary, 2));
  }

  const PredictRequest& request_;
  LoadedModel loaded_;
  std::unique_ptr<Predictor> predictor_;
  std::vector<std::string> shown_names_;
  std::vector<MediaSource> sources_;
  std::unique_ptr<DurableFile> entries_;
  bool is_first_entry_ = true;
  std::int64_t frames_ = 0, detections_ = 0;
  std::vector<std::string> skipped_;
};

}  // namespace

Verb add_predict_verb(CLI::App& program, const Launch& launch) {
  CLI::App* command = program.add_subcommand("predict", "Find objects in pictures and videos");
  const auto request = std::make_shared<PredictRequest>();
  command->add_option("--weights", request->weights, "a .safetensors file of a run")->required();
  command
      ->add_option("--source", request->sources,
                   "pictures, videos, folders, patterns (\"*.jpg\"); may be given several times")
      ->required();
  command->add_option("--out", request->out, "folder for pictures, labels/, predictions.json")
      ->required();
  command->add_option("--conf", request->confidence, "lowest confidence of a detection")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--iou", request->iou, "boxes that overlap more are one (NMS)")
      ->check(CLI::Range(0.1, 0.95))
      ->capture_default_str();
  command
      ->add_option("--imgsz", request->imgsz, "long side in pixels; default: that of the training")
      ->check(CLI::Range(32, 8192));
  command->add_option("--classes", request->classes, "only these: numbers or names, with commas")
      ->delimiter(',');
  command->add_option("--max-det", request->max_det, "detections in a picture at most")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command
      ->add_option("--batch", request->batch, "pictures at once; results differ by rounding alone")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_flag("--rect,!--no-rect", request->is_rect,
                    "frames with little padding (the default); else squares");
  command->add_flag("--save-txt", request->saves_text, "write labels/NAME.txt where something is");
  command->add_flag("--save-conf", request->saves_scores, "with the confidence as sixth column");
  command->add_flag("--images,!--no-images", request->saves_pictures,
                    "write pictures and videos with boxes (the default)");
  command->add_flag("--json", request->is_json, "print a summary for programs");
  return {command, [request, &launch] { return PredictionRun(*request, launch).run(); }};
}

}  // namespace trainer
