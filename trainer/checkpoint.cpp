// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

#include "trainer/contract/json_text.h"
#include "trainer/durable_file.h"
#include "trainer/tensor_file.h"

namespace trainer {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Progress, model, model_yaml, class_count, optimizer,
                                   batches_per_epoch, batch, freeze, arguments, train_images, epoch,
                                   epoch_batch, step, pending_batches, optimizer_steps, ema_updates,
                                   epochs_planned, is_mosaic_closed, is_finished, epochs_requested,
                                   hours_requested, reloads, seconds_used, best_fitness, best_epoch,
                                   patience_from, loss_scale, loss_scale_steps, loss_sums, loss_batches, batch_seconds,
                                   validation_seconds, save_seconds)

namespace {

namespace fs = std::filesystem;

constexpr const char* kPointerFile = "last.json";
constexpr const char* kFormat = "trainyard-checkpoint-1";
constexpr std::size_t kGenerations = 2;

// A line of the pointer file.
struct Generation {
  std::string file;
  std::string crc32;
  std::uint64_t size = 0;
  int epoch = 0;
  std::int64_t step = 0;
  std::int64_t serial = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Generation, file, crc32, size, epoch, step, serial)

struct Pointer {
  std::vector<Generation> generations;  // Newest first.
  std::string problem;                  // Why there are none though there is a file.
};

// Throws std::runtime_error where the file is of another version: what stands beside it is, too.
Pointer read_pointer(const std::string& folder) {
  const std::string path = folder + "/" + kPointerFile;
  if (!fs::exists(path)) return {};
  try {
    const auto json = nlohmann::json::parse(read_file(path));
    if (json.at("format") != kFormat) {
      throw std::runtime_error(
          fmt::format("{}: format {} is not {}.", path, json.at("format").dump(), kFormat));
    }
    Pointer pointer{json.at("generations").get<std::vector<Generation>>(), {}};
    if (pointer.generations.empty()) pointer.problem = fmt::format("{}: names no checkpoint", path);
    return pointer;
  } catch (const nlohmann::json::exception& error) {
    return {{}, fmt::format("{}: {}", path, error.what())};
  }
}

// N of last-N.ckpt; nothing where it is no such name.
std::optional<std::int64_t> serial_of(std::string_view name) {
  constexpr std::string_view kStart = "last-", kEnd = ".ckpt";
  if (!name.starts_with(kStart) || !name.ends_with(kEnd)) return std::nullopt;
  name.remove_prefix(kStart.size());
  name.remove_suffix(std::min(name.size(), kEnd.size()));
  std::int64_t serial = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), serial);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return serial;
}

// The checkpoints of the folder, whatever the pointer says. Newest first; names and serials alone.
std::vector<Generation> files_in(const std::string& folder) {
  std::vector<Generation> files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    const auto serial = serial_of(name);
    if (!serial) continue;
    files.emplace_back();
    files.back().file = name;
    files.back().serial = *serial;
  }
  std::sort(files.begin(), files.end(), [](const Generation& a, const Generation& b) {
    return a.serial > b.serial;
  });
  return files;
}

void write_pointer(const std::string& folder, const std::vector<Generation>& generations) {
  nlohmann::ordered_json json;
  json["format"] = kFormat;
  json["generations"] = nlohmann::json(generations);
  write_durably(folder + "/" + kPointerFile, contract::json_text(json, 2) + "\n");
}

// Checkpoints that no pointer names: older generations, and one of a crash before its pointer.
void remove_unnamed(const std::string& folder, const std::vector<Generation>& generations) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("last-") || !name.ends_with(".ckpt")) continue;
    const bool is_named =
        std::any_of(generations.begin(), generations.end(),
                    [&](const Generation& generation) { return generation.file == name; });
    std::error_code ignored;  // Whatever stays is removed next time.
    if (!is_named) fs::remove(entry.path(), ignored);
  }
}

void check_owner(const TrainState& state) {
  if (state.check_owner) state.check_owner();
}

void append(NamedTensors& all, const std::string& prefix, const NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) all.emplace_back(prefix + name, tensor);
}

NamedTensors gradients_of(Optimizer& optimizer) {
  NamedTensors named;
  const std::vector<torch::Tensor> gradients = optimizer.gradients();
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    named.emplace_back(optimizer.parameter_names()[i], gradients[i]);
  }
  return named;
}

// The tensors under `prefix`, without it.
NamedTensors under(const NamedTensors& all, const std::string& prefix) {
  NamedTensors part;
  for (const auto& [name, tensor] : all) {
    if (name.starts_with(prefix)) part.emplace_back(name.substr(prefix.size()), tensor);
  }
  return part;
}

void restore_module(const TensorFile& file, const std::string& prefix, torch::nn::Module& module) {
  const std::size_t wanted = state_tensors(module).size();
  const std::size_t copied = copy_matching(under(file.tensors, prefix), module);
  if (copied != wanted) {
    throw std::runtime_error(
        fmt::format("{} of {} tensors of {} fit this model", copied, wanted, prefix));
  }
}

// What this attempt was given otherwise than the one that saved: "seed = 3 (was 0)".
std::vector<std::string> changes_between(const Progress& saved, const Progress& now) {
  std::vector<std::string> changes;
  bool is_order_other = false;
  for (const auto& [name, value] : now.arguments) {
    const auto before = saved.arguments.find(name);
    if (before == saved.arguments.end() || before->second == value) continue;
    changes.push_back(fmt::format("{} = {} (was {})", name, value, before->second));
    is_order_other = is_order_other || name == "seed" || name == "rect";
  }
  if (!saved.train_images.empty() && now.train_images != saved.train_images) {
    changes.emplace_back("the training images are others, or in another order");
    is_order_other = true;
  }
  if (is_order_other && saved.epoch_batch > 0) {
    changes.push_back(
        fmt::format("batches {} to {} of epoch {} come from another order than those before: some "
                    "images may be seen twice in it and others not at all",
                    saved.epoch_batch + 1, saved.batches_per_epoch, saved.epoch + 1));
  }
  return changes;
}

// Returns changes_between.
std::vector<std::string> restore(const TensorFile& file, TrainState state) {
  Progress progress = parse_progress(file.metadata.at("progress"));
  if (progress.model != state.progress.model ||
      progress.class_count != state.progress.class_count ||
      progress.optimizer != state.progress.optimizer || progress.batch != state.progress.batch ||
      progress.freeze != state.progress.freeze ||
      progress.batches_per_epoch != state.progress.batches_per_epoch) {
    const auto text = [](const Progress& each) {
      return fmt::format("model {}, {} classes, {}, batch {}, {} batches an epoch, freeze [{}]",
                         each.model, each.class_count, each.optimizer, each.batch,
                         each.batches_per_epoch, fmt::join(each.freeze, ", "));
    };
    throw std::invalid_argument(
        fmt::format("The run folder holds a run with {}; these arguments make {}. Use the old "
                    "arguments or another folder.",
                    text(progress), text(state.progress)));
  }
  restore_module(file, "model/", state.model);
  restore_module(file, "average/", state.average);
  state.optimizer.load_state(under(file.tensors, "optimizer/"), progress.optimizer_steps);
  state.optimizer.zero_grad();
  const NamedTensors pending = under(file.tensors, "gradient/");
  const NamedTensors gradients = gradients_of(state.optimizer);
  if (!pending.empty() && pending.size() != gradients.size()) {
    throw std::runtime_error("accumulated gradients are missing");
  }
  torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < pending.size(); ++i) gradients[i].second.copy_(pending[i].second);
  if (state.wire != nullptr) *state.wire = under(file.tensors, "wire/");
  std::vector<std::string> changes = changes_between(progress, state.progress);
  progress.arguments = state.progress.arguments;
  progress.train_images = state.progress.train_images;
  state.progress = progress;
  return changes;
}

// Reads and checks a generation. Throws std::runtime_error with the reason only.
TensorFile read_generation(const std::string& folder, const Generation& generation) {
  std::string bytes;
  try {
    bytes = read_file(folder + "/" + generation.file);
  } catch (const std::system_error& error) {
    throw std::runtime_error(error.code().message());
  }
  const std::string crc = fmt::format("{:08x}", crc32_of(bytes));
  if (bytes.size() != generation.size) {
    throw std::runtime_error(fmt::format("{} bytes (recorded {})", bytes.size(), generation.size));
  }
  if (crc != generation.crc32) {
    throw std::runtime_error(
        fmt::format("checksum mismatch (recorded {}, read {})", generation.crc32, crc));
  }
  return parse_tensor_file(bytes);
}

// A checkpoint that no usable pointer names: its seal says whether it is whole, its size and
// checksum are taken from itself. Throws std::runtime_error with the reason only.
TensorFile adopt(const std::string& folder, Generation& generation) {
  const std::string bytes = read_file(folder + "/" + generation.file);
  TensorFile file = parse_tensor_file(bytes);  // And compares the seal.
  const auto format = file.metadata.find("format");
  const auto progress = file.metadata.find("progress");
  if (format == file.metadata.end() || format->second != kFormat ||
      progress == file.metadata.end()) {
    throw std::runtime_error(fmt::format("is no {}", kFormat));
  }
  const Progress saved = parse_progress(progress->second);
  generation.epoch = saved.epoch;
  generation.step = saved.step;
  generation.size = bytes.size();
  generation.crc32 = fmt::format("{:08x}", crc32_of(bytes));
  return file;
}

struct Found {
  Generation generation;
  TensorFile file;
};

// The newest usable generation, with a warning for each that is not. Where no pointer names any,
// the files of the folder count: starting anew beside them would remove them.
std::optional<Found> newest(const std::string& folder, std::vector<std::string>& warnings) {
  const Pointer pointer = read_pointer(folder);
  const bool is_named = !pointer.generations.empty();
  const std::vector<Generation> candidates = is_named ? pointer.generations : files_in(folder);
  if (candidates.empty() && pointer.problem.empty()) return std::nullopt;
  std::string faults;
  if (!is_named) {
    faults = (pointer.problem.empty() ? fmt::format("{}/{} is missing", folder, kPointerFile)
                                      : pointer.problem) + ". ";
  }
  for (Generation generation : candidates) {
    try {
      TensorFile file =
          is_named ? read_generation(folder, generation) : adopt(folder, generation);
      if (!faults.empty()) warnings.push_back(fmt::format("{}Using {}.", faults, generation.file));
      return Found{std::move(generation), std::move(file)};
    } catch (const std::runtime_error& error) {
      faults += fmt::format("checkpoint {}: {}. ", generation.file, error.what());
    }
  }
  throw std::runtime_error(fmt::format("{}No {}generation is left. Move {} away to start anew.",
                                       faults, candidates.empty() ? "" : "other ", folder));
}

}  // namespace

std::string to_json_text(const Progress& progress) {
  return contract::json_text(nlohmann::json(progress));
}

Progress parse_progress(const std::string& json_text) {
  try {
    nlohmann::json json = nlohmann::json::parse(json_text);
    if (json.is_object()) {  // Not in the first checkpoints of version 0.1.
      json.emplace("model_yaml", "");
      json.emplace("freeze", nlohmann::json::array());
      json.emplace("patience_from", 0);
      json.emplace("loss_scale", 0);
      json.emplace("loss_scale_steps", 0);
      json.emplace("train_images", "");
      json.emplace("arguments", nlohmann::json::object());
    }
    return json.get<Progress>();
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("progress: {}", error.what()));
  }
}

void save_checkpoint(const std::string& folder, TrainState state) {
  check_owner(state);
  fs::create_directories(folder);
  const std::vector<Generation> generations = read_pointer(folder).generations;
  const std::vector<Generation> files = files_in(folder);

  TensorFile file;
  file.metadata = {{"format", kFormat}, {"progress", to_json_text(state.progress)}};
  append(file.tensors, "model/", state_tensors(state.model));
  append(file.tensors, "average/", state_tensors(state.average));
  append(file.tensors, "optimizer/", state.optimizer.state());
  if (state.wire != nullptr) append(file.tensors, "wire/", *state.wire);
  if (state.progress.pending_batches > 0) {
    append(file.tensors, "gradient/", gradients_of(state.optimizer));
  }

  Generation made;
  // Above all that is there: of a name that no pointer knows, nothing is written over.
  made.serial = 1 + std::max(generations.empty() ? 0 : generations.front().serial,
                             files.empty() ? 0 : files.front().serial);
  made.file = fmt::format("last-{:06}.ckpt", made.serial);
  made.epoch = state.progress.epoch;
  made.step = state.progress.step;
  const WrittenFile written = write_tensor_file(folder + "/" + made.file, file, Seal::kChecksum,
                                                state.check_owner);
  made.crc32 = fmt::format("{:08x}", written.crc32);
  made.size = written.size;

  std::vector<Generation> kept = {made};
  for (const Generation& generation : generations) {
    if (kept.size() < kGenerations) kept.push_back(generation);
  }
  check_owner(state);  // A save takes long.
  write_pointer(folder, kept);
  check_owner(state);
  remove_unnamed(folder, kept);
}

LoadReport load_checkpoint(const std::string& folder, TrainState state) {
  LoadReport report;
  const auto found = newest(folder, report.warnings);
  if (!found) return report;
  report.changes = restore(found->file, state);
  // A damaged generation shall not count as the second one that the next save keeps.
  if (!report.warnings.empty()) {
    std::vector<Generation> whole = read_pointer(folder).generations;
    std::erase_if(whole,
                  [&](const Generation& each) { return each.serial > found->generation.serial; });
    if (whole.empty()) whole = {found->generation};
    check_owner(state);
    write_pointer(folder, whole);
  }
  report.is_found = true;
  report.file = found->generation.file;
  return report;
}

std::optional<Progress> read_progress(const std::string& folder) {
  std::vector<std::string> warnings;
  const auto found = newest(folder, warnings);
  if (!found) return std::nullopt;
  return parse_progress(found->file.metadata.at("progress"));
}

}  // namespace trainer
