// SPDX-License-Identifier: Apache-2.0
#include "trainer/train_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "trainer/contract/archive.h"
#include "trainer/contract/json_text.h"
#include "trainer/train.h"

namespace trainer {

namespace {

constexpr std::size_t kFaultsShown = 10;

std::string to_text(const contract::DataFault& fault) {
  return fault.where.empty() ? fault.message : fmt::format("{}: {}", fault.where, fault.message);
}

void check(const contract::TrainArgs& args, int world) {
  std::string faults;
  for (const contract::ArgFault& fault : contract::check_train_args(args)) {
    faults += (faults.empty() ? "" : "\n") + fault.message;
  }
  if (faults.empty() && args.has_auto_batch() && world > 1) {
    faults = fmt::format(
        "batch is to be found by trial, which needs one GPU, not {}. Give batch = {}.", world,
        16 * world);
  }
  if (faults.empty() && args.batch % world != 0) {
    faults =
        fmt::format("batch = {} does not divide among {} GPUs. Use {} or {}.", args.batch, world,
                    std::max(1, args.batch / world) * world, (args.batch / world + 1) * world);
  }
  if (!faults.empty()) throw BadInput(faults);
}

void take_dataset(const contract::DatasetReport& report, TrainInput& input) {
  std::string fatal;
  for (const contract::DataFault& fault : report.faults) {
    if (fault.is_fatal) fatal += (fatal.empty() ? "" : "\n") + to_text(fault);
  }
  if (report.has_fatal()) throw BadInput(fatal);

  for (std::size_t i = 0; i < std::min(kFaultsShown, report.faults.size()); ++i) {
    input.warnings.push_back(to_text(report.faults[i]));
  }
  if (report.faults_total > static_cast<std::int64_t>(input.warnings.size())) {
    input.warnings.push_back(fmt::format(
        "{} more. All: trainyard-trainer check {}",
        report.faults_total - static_cast<std::int64_t>(input.warnings.size()), input.args.data));
  }
  input.dataset = report.dataset;
}

// The first ones, as the reference.
void apply_fraction(std::vector<contract::ImageEntry>& images, double fraction) {
  images.resize(static_cast<std::size_t>(
      contract::images_kept(fraction, static_cast<std::int64_t>(images.size()))));
}

// Drops the labels of all other classes; their images become background.
void keep_classes(contract::Dataset& dataset, const std::vector<int>& classes) {
  if (classes.empty()) return;
  const auto class_count = static_cast<int>(dataset.names.size());
  if (classes.back() >= class_count) {
    throw BadInput(fmt::format("classes = {} is not below the {} classes of the data set.",
                               classes.back(), class_count));
  }
  for (auto* split : {&dataset.train, &dataset.val, &dataset.test}) {
    for (contract::ImageEntry& image : *split) {
      std::erase_if(image.labels, [&](const contract::Label& label) {
        return !std::binary_search(classes.begin(), classes.end(), label.cls);
      });
    }
  }
  if (std::all_of(dataset.train.begin(), dataset.train.end(),
                  [](const contract::ImageEntry& image) { return image.labels.empty(); })) {
    throw BadInput(fmt::format("classes = [{}]: none of {} training images has a label of them.",
                               fmt::join(classes, ", "), dataset.train.size()));
  }
}

void merge_classes(contract::Dataset& dataset) {
  for (auto* split : {&dataset.train, &dataset.val, &dataset.test}) {
    for (contract::ImageEntry& image : *split) {
      for (contract::Label& label : image.labels) label.cls = 0;
    }
  }
}

// Ranks of another model or size would end in each other's memory, or train on something else
// without a word.
void agree_on_arguments(const contract::TrainArgs& args, Communicator& communicator) {
  using nlohmann::json;
  const std::string own = contract::json_text(json(args));
  const std::string sent = communicator.rank() == 0 ? own : std::string();
  const std::vector<std::byte> first =
      communicator.all_gather(std::as_bytes(std::span(sent))).front();
  agree_on_input(communicator, [&] {
    const std::string_view theirs(reinterpret_cast<const char*>(first.data()), first.size());
    if (own == theirs) return;
    std::string differing;
    const json here = json::parse(own), there = json::parse(theirs);
    for (const auto& [name, value] : here.items()) {
      const json other = there.value(name, json());
      if (value == other) continue;
      differing += fmt::format("{}{} = {} here and {} on rank 0", differing.empty() ? "" : "; ", name,
                               value.dump(), other.dump());
    }
    throw BadInput(fmt::format("The ranks were started with different arguments: {}. Start all of "
                               "them with the same.",
                               differing.empty() ? "those of rank 0 are of another version" : differing));
  });
}

}  // namespace

void agree_on_input(Communicator& communicator, const std::function<void()>& work) {
  std::string fault;
  try {
    work();
  } catch (const BadInput& error) {
    fault = error.what();
  } catch (const std::invalid_argument& error) {
    fault = error.what();
  }
  const auto all = communicator.all_gather(std::as_bytes(std::span(fault)));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const std::string text(reinterpret_cast<const char*>(all[rank].data()), all[rank].size());
    throw BadInput(rank == 0 ? text : fmt::format("rank {}: {}", rank, text));
  }
}

void warn_of_large_batch(TrainInput& input) {
  const auto images = std::ssize(input.dataset.train);
  if (input.args.batch <= images) return;
  input.warnings.push_back(
      fmt::format("batch = {}, but there are {} training images: batches are filled up, so each of "
                  "them has images more than once. Use at most {}.",
                  input.args.batch, images, images));
}

TrainInput prepare_input(const contract::TrainArgs& args, Communicator& communicator) {
  TrainInput input;
  input.args = args;
  agree_on_arguments(args, communicator);
  agree_on_input(communicator, [&] {
    check(args, communicator.size());
    // One rank of a host; the others find it done, and wait longer than for anything else.
    if (communicator.local_rank() == 0 && contract::has_archive_extension(args.data)) {
      const contract::Unpacked unpacked = contract::unpack_archive(args.data, [&] { communicator.tick(); });
      if (unpacked.folder.empty()) {
        throw BadInput(fmt::format("{}: {}", args.data, unpacked.problem));
      }
    }
  });
  agree_on_input(communicator, [&] {
    take_dataset(contract::load_dataset(args.data), input);
    apply_fraction(input.dataset.train, args.fraction);
    apply_fraction(input.dataset.val, args.fraction_val);
    keep_classes(input.dataset, args.classes);
  });
  input.class_names = input.dataset.names;
  if (args.single_cls) {
    merge_classes(input.dataset);
    input.class_names = {"item"};
  }
  input.batch_per_rank = args.batch / communicator.size();
  warn_of_large_batch(input);

  // Ranks that see different files would train on different orders without noticing.
  std::array<std::int64_t, 4> counts = {static_cast<std::int64_t>(input.dataset.train.size()),
                                        -static_cast<std::int64_t>(input.dataset.train.size()),
                                        static_cast<std::int64_t>(input.dataset.val.size()),
                                        -static_cast<std::int64_t>(input.dataset.val.size())};
  communicator.all_reduce_max(counts);
  agree_on_input(communicator, [&] {
    if (counts[0] != -counts[1] || counts[2] != -counts[3]) {
      throw BadInput(
          fmt::format("{}: this rank on {} sees {} training and {} validation images, "
                      "others see up to {} and {}. Use a folder that all nodes share.",
                      args.data, communicator.host(), input.dataset.train.size(),
                      input.dataset.val.size(), counts[0], counts[2]));
    }
  });
  return input;
}

}  // namespace trainer
