// SPDX-License-Identifier: Apache-2.0
#include "trainer/train_words.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <torch/cuda.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <utility>

#include "trainer/checkpoint.h"
#include "trainer/contract/architecture.h"
#include "trainer/contract/run_words.h"
#include "trainer/layout.h"

namespace trainer {

namespace fs = std::filesystem;
using contract::RunWords;

const char* const kRunWordsHelp =
    "Where a run lies and what computes it, instead of --run (key=value):\n"
    "  project, name            folder project/name, of runs/detect and train where one is left "
    "out\n"
    "  save_dir                 that folder as a whole\n"
    "  exist_ok=false           a folder that holds other files may be used\n"
    "  resume=false             true: go on with the run there, with its own arguments but for\n"
    "                           those given here; or the folder of the run\n"
    "  device=auto              cpu, or a GPU for each rank: 0 or 0,1\n";

namespace {

struct Given {
  contract::TrainSpec spec;
  RunWords words;
  std::string faults;  // A line each.

  void add(const std::string& fault) { faults += (faults.empty() ? "" : "\n") + fault; }
};

// Of a run that is gone on with: what it was started with, of its args.yaml (RunFolder::write_args).
// Empty: there is none.
std::optional<contract::TrainArgs> args_of_run(const fs::path& folder) {
  const fs::path path = folder / contract::kArgsFile;
  std::ifstream file(path);
  if (!file) return std::nullopt;
  try {
    nlohmann::json args;
    for (std::string line; std::getline(file, line);) {
      const std::size_t colon = line.find(": ");
      if (colon == std::string::npos) throw std::runtime_error("not a line of the form name: value");
      args[line.substr(0, colon)] = nlohmann::json::parse(line.substr(colon + 2));
    }
    return args.get<contract::TrainArgs>();
  } catch (const std::exception& error) {
    throw std::invalid_argument(fmt::format("{}: {}. Move the file away, and give all arguments.",
                                            path.string(), error.what()));
  }
}

// Words win over what a run that is gone on with was started with.
Given read_words(const std::vector<std::string>& words, const std::string& run_dir) {
  Given given;
  std::vector<std::pair<std::string, std::string>> args;
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos) {
      given.add(fmt::format("{} is not of the form key=value.", word));
      continue;
    }
    const std::string key = word.substr(0, equals), text = word.substr(equals + 1);
    if (!contract::is_run_word(key)) {
      args.emplace_back(key, text);
    } else if (const auto fault = contract::set_run_word(given.words, key, text)) {
      given.add(fault->message);
    }
  }
  if (given.words.resume) {
    const auto begun = args_of_run(run_dir.empty() ? given.words.folder() : run_dir);
    if (begun) given.spec.args = *begun;
  }
  for (const auto& [key, text] : args) {
    if (const auto fault = contract::set_train_arg(given.spec.args, key, text)) {
      given.add(fault->message);
    }
  }
  return given;
}

// A checkpoint, its pointer or weights: checkpoint.h says which of them count.
bool has_run(const fs::path& folder) {
  const fs::path weights = folder / contract::kWeightsFolder;
  return fs::is_directory(weights) && !fs::is_empty(weights);
}

// The next of train2, train3 ... that is not there.
std::string free_name(const fs::path& folder) {
  int number = 2;
  while (fs::exists(folder.string() + std::to_string(number))) ++number;
  return folder.filename().string() + std::to_string(number);
}

std::string fault_of_folder(const RunWords& words, const fs::path& folder, bool is_named) {
  if (words.resume) {
    return has_run(folder)
               ? ""
               : fmt::format("{}: there is no run to resume. Leave resume out.", folder.string());
  }
  if (is_named || !fs::exists(folder)) return {};
  if (has_run(folder)) {
    return fmt::format("{} holds a run. Go on with it by resume=True, or give name={}.",
                       folder.string(), free_name(folder));
  }
  if (words.exist_ok || fs::is_empty(folder)) return {};
  return fmt::format("{} is there already. Use it all the same by exist_ok=True, or give name={}.",
                     folder.string(), free_name(folder));
}

std::string choose_device(const RunWords& words, const Launch& launch) {
  if (words.device == RunWords::Device::kAny) return {};
  constexpr int kReplace = 1;
  if (words.device == RunWords::Device::kCpu) {
    ::setenv("CUDA_VISIBLE_DEVICES", "", kReplace);
    return {};
  }
  const bool is_any = std::find(words.gpus.begin(), words.gpus.end(), -1) != words.gpus.end();
  if (!is_any) {
    ::setenv("CUDA_VISIBLE_DEVICES", fmt::format("{}", fmt::join(words.gpus, ",")).c_str(),
             kReplace);
  }
  const std::size_t wanted = words.gpus.size();
  if (torch::cuda::device_count() < wanted) {
    return fmt::format("device: {} GPU{} asked for, {} there. Give device=cpu, or leave it out.",
                       wanted, wanted == 1 ? "" : "s", torch::cuda::device_count());
  }
  if (static_cast<std::size_t>(launch.size) < wanted) {
    return fmt::format("device: {} GPUs for {} rank{}. Start one rank a GPU: mpirun -n {} ...",
                       wanted, launch.size, launch.size == 1 ? "" : "s", wanted);
  }
  return {};
}

}  // namespace

contract::TrainSpec spec_from_words(const std::vector<std::string>& words,
                                    const std::string& run_dir, const Launch& launch) {
  Given given = read_words(words, run_dir);
  const std::string named = given.words.folder();
  if (run_dir.empty() && named.empty()) {
    given.add("no folder for the run. Give --run FOLDER, or project= and name=.");
  } else if (!run_dir.empty() && !named.empty()) {
    given.add(fmt::format("two folders for the run: --run {} and {}. Give one.", run_dir, named));
  } else if (launch.rank == 0) {
    const std::string fault =
        fault_of_folder(given.words, run_dir.empty() ? named : run_dir, !run_dir.empty());
    if (!fault.empty()) given.add(fault);
  }
  const std::string fault = choose_device(given.words, launch);
  if (!fault.empty()) given.add(fault);
  if (!given.faults.empty()) throw std::invalid_argument(given.faults);

  contract::TrainSpec spec = std::move(given.spec);
  spec.run_dir = fs::absolute(run_dir.empty() ? named : run_dir);
  spec.run_id = fs::path(spec.run_dir).filename();
  if (!spec.args.data.empty()) spec.args.data = fs::absolute(spec.args.data);
  if (contract::is_model_file(spec.args.model)) spec.args.model = fs::absolute(spec.args.model);
  return spec;
}

}  // namespace trainer
