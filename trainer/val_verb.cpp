// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "trainer/contract/dataset.h"
#include "trainer/contract/json_text.h"
#include "trainer/durable_file.h"
#include "trainer/plots.h"
#include "trainer/predictions.h"
#include "trainer/train.h"
#include "trainer/validate.h"
#include "trainer/verbs.h"
#include "trainer/weights_file.h"

namespace trainer {

namespace {

struct ValRequest {
  std::string weights, data, split = "val";
  std::string out;  // Empty: print only.
  int imgsz = 0;    // 0: that of the training.
  int batch = 16;
  double confidence = 0.001, iou = 0.7;
  int max_det = 300;
  bool is_rect = true, is_single_class = false, is_json = false;
};

struct Subject {
  LoadedModel loaded;
  std::vector<contract::ImageEntry> images;
  std::vector<std::string> class_names;
};

std::vector<contract::ImageEntry> images_of(const ValRequest& request, contract::Dataset& dataset) {
  auto& images = request.split == "test"    ? dataset.test
                 : request.split == "train" ? dataset.train
                                            : dataset.val;
  if (images.empty()) {
    throw BadInput(fmt::format("{}: the split {} has no images.", request.data, request.split));
  }
  return std::move(images);
}

Subject load_subject(ValRequest& request) {
  Subject subject{.loaded = load_given_model(request.weights), .images = {}, .class_names = {}};
  contract::DatasetReport report = contract::load_dataset(request.data);
  for (const contract::DataFault& fault : report.faults) {
    if (fault.is_fatal) throw BadInput(fmt::format("{}: {}", fault.where, fault.message));
  }
  if (report.faults_total > 0) {
    fmt::print(stderr, "{} faults in the data set. All: trainyard-trainer check {}\n",
               report.faults_total, request.data);
  }
  const std::vector<std::string>& trained = subject.loaded.info.class_names;
  if (trained.size() == 1 && report.dataset.names.size() > 1) request.is_single_class = true;
  if (!request.is_single_class && report.dataset.names.size() != trained.size()) {
    throw BadInput(fmt::format("{} has {} classes, {} has {}. With --single-cls all are one.",
                               request.weights, trained.size(), request.data,
                               report.dataset.names.size()));
  }
  subject.images = images_of(request, report.dataset);
  subject.class_names = trained;
  if (request.is_single_class && trained.size() > 1) subject.class_names = {"item"};
  if (request.imgsz == 0) request.imgsz = subject.loaded.info.imgsz;
  if (request.imgsz % 32 != 0) {
    throw BadInput(fmt::format("imgsz = {} is no multiple of 32. Use {}.", request.imgsz,
                               (request.imgsz + 31) / 32 * 32));
  }
  return subject;
}

// A whole table of few classes; of many its cells above 0.
nlohmann::ordered_json confusion_json(const ConfusionMatrix& confusion,
                                      std::vector<std::string> names) {
  using Json = nlohmann::ordered_json;
  names.emplace_back("background");
  Json json = {{"names", std::move(names)}};
  if (confusion.classes() > kConfusionClassesMax) {
    json["cells"] = Json::array();
    for (const ConfusionMatrix::Cell& cell : confusion.cells()) {
      json["cells"].push_back({cell.predicted, cell.truth, cell.count});
    }
    return json;
  }
  json["predicted_by_true"] = Json::array();
  for (int row = 0; row <= confusion.classes(); ++row) {
    std::vector<std::int64_t> counts;
    for (int column = 0; column <= confusion.classes(); ++column) {
      counts.push_back(confusion.at(row, column));
    }
    json["predicted_by_true"].push_back(counts);
  }
  return json;
}

nlohmann::ordered_json to_json(const ValRequest& request, const Subject& subject,
                               const Validation& result) {
  const EvalMetrics& metrics = result.metrics;
  nlohmann::ordered_json json;
  json["weights"] = request.weights;
  json["data"] = request.data;
  json["split"] = request.split;
  json["imgsz"] = request.imgsz;
  json["rect"] = request.is_rect;
  json["images"] = metrics.images;
  json["instances"] = metrics.instances;
  json["precision"] = metrics.precision;
  json["recall"] = metrics.recall;
  json["map50"] = metrics.map50;
  json["map50_95"] = metrics.map50_95;
  json["fitness"] = metrics.fitness();
  json["losses"] = {
      {"box", result.losses[0]}, {"cls", result.losses[1]}, {"dfl", result.losses[2]}};
  json["classes"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < metrics.classes.size(); ++i) {
    const ClassMetrics& own = metrics.classes[i];
    json["classes"].push_back({{"class", result.curves[i].cls},
                               {"name", own.name},
                               {"images", own.images},
                               {"instances", own.instances},
                               {"precision", own.precision},
                               {"recall", own.recall},
                               {"ap50", own.ap50},
                               {"ap50_95", own.ap50_95},
                               {"ap", result.curves[i].ap}});
  }
  json["confusion"] = confusion_json(result.confusion, subject.class_names);
  return json;
}

// What is written while the images pass by.
class BatchFiles {
 public:
  BatchFiles(const std::string& folder, const Subject& subject)
      : folder_(folder), subject_(subject) {}

  void add(const Batch& batch, const std::vector<torch::Tensor>& detections) {
    for (std::size_t i = 0; i < detections.size(); ++i) {
      const Batch::Source& source = batch.sources[i];
      if (source.index < 0) continue;
      const std::string& path = subject_.images[static_cast<std::size_t>(source.index)].path;
      for (auto& entry : to_coco_results(path, to_original(detections[i], source))) {
        predictions_.push_back(std::move(entry));
      }
    }
    if (batches_ < kBatchesDrawn) draw(batch, detections);
    ++batches_;
  }
  void finish() const {
    write_durably(folder_ + "/predictions.json", contract::json_text(predictions_) + "\n");
  }

 private:
  static constexpr int kBatchesDrawn = 3;

  void draw(const Batch& batch, const std::vector<torch::Tensor>& detections) const {
    std::vector<std::vector<Detection>> found;
    for (const torch::Tensor& rows : detections) found.push_back(to_detections(rows));
    const std::string start = fmt::format("{}/val_batch{}", folder_, batches_);
    plot_batch(batch, subject_.class_names, start + "_labels.png");
    plot_batch(batch, found, subject_.class_names, start + "_pred.png");
  }

  const std::string& folder_;
  const Subject& subject_;
  nlohmann::ordered_json predictions_ = nlohmann::ordered_json::array();
  int batches_ = 0;
};

ValidationOptions validation_options(const ValRequest& request, const Subject& subject) {
  ValidationOptions options;
  options.nms = {.confidence = request.confidence,
                 .iou = request.iou,
                 .max_det = request.max_det,
                 .class_agnostic = request.is_single_class};
  options.class_names = subject.class_names;
  options.is_single_class = request.is_single_class;
  // A matrix of all that is above .001 would be noise; who asks for another confidence means it.
  constexpr double kUsual = 0.001;
  if (request.confidence != kUsual) options.confusion_confidence = request.confidence;
  return options;
}

int validate_weights(ValRequest request, const Launch& launch) {
  torch::set_num_threads(launch.cpus);
  const Subject subject = load_subject(request);
  const torch::Device device = torch::cuda::is_available() ? torch::kCUDA : torch::kCPU;
  subject.loaded.model->to(device);
  ValLoader loader(subject.images, request.imgsz, request.batch, launch.cpus,
                   request.is_single_class, Shard{},
                   request.is_rect ? ValFrame::kRect : ValFrame::kSquare);
  ValidationOptions options = validation_options(request, subject);
  BatchFiles files(request.out, subject);
  if (!request.out.empty()) {
    std::filesystem::create_directories(request.out);
    options.on_batch = [&files](const Batch& batch, const std::vector<torch::Tensor>& detections) {
      files.add(batch, detections);
    };
  }
  const auto local = make_local_communicator();
  const Validation result =
      validate(*subject.loaded.model, loader, options, device, *local).value();
  for (const std::string& problem : loader.take_unreadable()) {
    fmt::print(stderr, "{} It is left out.\n", problem);
  }
  for (const std::string& note : loader.take_odd()) {
    fmt::print(stderr, "{} It is used all the same.\n", note);
  }
  const std::string table = to_table(result.metrics, subject.class_names.size());
  const std::string json = contract::json_text(to_json(request, subject, result), 2) + "\n";
  if (!request.out.empty()) {
    files.finish();
    write_durably(request.out + "/table.txt", table);
    write_durably(request.out + "/metrics.json", json);
    plot_curves(result.curves, subject.class_names, request.out);
    plot_confusion(result.confusion, subject.class_names, request.out);
  }
  fmt::print("{}", request.is_json ? json : table);
  return 0;
}

}  // namespace

Verb add_val_verb(CLI::App& program, const Launch& launch) {
  CLI::App* command = program.add_subcommand("val", "Measure weights on a data set");
  const auto request = std::make_shared<ValRequest>();
  command->add_option("--weights", request->weights, "a .safetensors file of a run")->required();
  command->add_option("--data", request->data, "YAML file of the data set")->required();
  command->add_option("--split", request->split, "which images")
      ->check(CLI::IsMember({"train", "val", "test"}))
      ->capture_default_str();
  command
      ->add_option("--imgsz", request->imgsz, "long side in pixels; default: that of the training")
      ->check(CLI::Range(32, 8192));
  command->add_option("--batch", request->batch, "images at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--conf", request->confidence, "lowest confidence of a detection")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--iou", request->iou, "boxes that overlap more are one (NMS)")
      ->check(CLI::Range(0.1, 0.95))
      ->capture_default_str();
  command->add_option("--max-det", request->max_det, "detections in an image at most")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command->add_flag(
      "--rect,!--no-rect", request->is_rect,
      "batches of images of like shape with little padding (the default); else squares");
  command->add_flag("--single-cls", request->is_single_class, "all classes are one");
  command->add_flag("--json", request->is_json, "print the metrics for programs");
  command->add_option("--out", request->out,
                      "folder for table.txt, metrics.json, predictions.json (COCO) and plots");
  return {command, [request, &launch] { return validate_weights(*request, launch); }};
}

}  // namespace trainer
