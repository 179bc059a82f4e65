// SPDX-License-Identifier: Apache-2.0
#include "trainer/run_owner.h"

#include <fmt/format.h>
#include <unistd.h>

#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <system_error>
#include <utility>

#include "trainer/contract/train_spec.h"
#include "trainer/durable_file.h"

namespace trainer {

namespace {

namespace fs = std::filesystem;

struct Owner {
  std::string token;  // Empty: nobody's.
  std::string name;   // For people.
};

std::string path_in(const std::string& run_dir) {
  return fmt::format("{}/{}", run_dir, kOwnerFile);
}

Owner read_owner(const std::string& run_dir) {
  try {
    const auto json = nlohmann::json::parse(read_file(path_in(run_dir)));
    Owner owner{
        json.at("token").get<std::string>(),
        fmt::format("{}, pid {}", json.at("host").get<std::string>(), json.at("pid").get<int>())};
    if (json.contains("job")) {
      owner.name += fmt::format(", job {}, attempt {}", json.at("job").get<std::string>(),
                                json.at("attempt").get<int>());
    }
    return owner;
  } catch (const std::exception&) {
    return {};
  }
}

std::string random_token() {
  std::random_device random;
  std::string token;
  for (int i = 0; i < 4; ++i) token += fmt::format("{:08x}", random());
  return token;
}

void remove_parts(const std::string& folder) {
  std::error_code ignored;  // A part that stays harms nobody: no two have one name.
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().extension() == kPartEnd) fs::remove(entry.path(), ignored);
  }
}

}  // namespace

RunOwner::RunOwner(std::string run_dir, std::string job, int attempt)
    : run_dir_(std::move(run_dir)),
      job_(std::move(job)),
      attempt_(attempt),
      before_(read_owner(run_dir_).token) {}

void RunOwner::take(Communicator& communicator) {
  const std::string made = communicator.rank() == 0 ? random_token() : std::string();
  const auto all = communicator.all_gather(std::as_bytes(std::span(made)));
  const std::string token(reinterpret_cast<const char*>(all.front().data()), all.front().size());
  {
    const std::lock_guard lock(mutex_);
    own_ = token;  // Before it is written: no rank takes it for another's.
  }
  if (communicator.rank() != 0) return;
  nlohmann::ordered_json json;
  json["token"] = token;
  json["host"] = communicator.host();
  json["pid"] = ::getpid();
  if (!job_.empty()) {
    json["job"] = job_;
    json["attempt"] = attempt_;
  }
  write_durably(path_in(run_dir_), json.dump(2) + "\n");
  remove_parts(run_dir_);
  remove_parts(fmt::format("{}/{}", run_dir_, contract::kWeightsFolder));
}

std::string RunOwner::why_lost() const {
  const Owner owner = read_owner(run_dir_);
  const std::lock_guard lock(mutex_);
  if (owner.token.empty() || owner.token == own_ || owner.token == before_) return {};
  return fmt::format("another process ({}) has taken this run over; it goes on there", owner.name);
}

}  // namespace trainer
