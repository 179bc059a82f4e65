// SPDX-License-Identifier: GPL-3.0-or-later
//
// The input as a request: lines "key=value" as of the command line, and behind a line "---" the
// request file. A request without a fault comes back the same from its file and from its message.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "memory_file.h"
#include "scheduler/request.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const std::size_t border = text.find("---\n");
  const std::string toml = border == std::string::npos ? text : text.substr(border + 4);
  std::vector<scheduler::Setting> settings;
  std::istringstream lines(border == std::string::npos ? "" : text.substr(0, border));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    settings.push_back({line.substr(0, equals + 1), line.substr(0, equals), line.substr(equals + 1)});
  }
  const MemoryFile file(toml);
  const auto outcome = scheduler::read_request(file.path(), settings, "/work");
  for (const scheduler::Fault& fault : outcome.faults) {
    if (fault.message.empty() || fault.message.find('\n') != std::string::npos) std::abort();
  }
  if (!outcome.faults.empty()) return 0;
  const std::string effective = scheduler::to_toml(outcome.request);
  const MemoryFile copy(effective);
  const auto again = scheduler::read_request(copy.path(), {}, "/elsewhere");
  if (!again.faults.empty() || scheduler::to_toml(again.request) != effective) std::abort();
  const nlohmann::json message = outcome.request;
  const auto received = nlohmann::json::parse(message.dump()).get<scheduler::TrainingRequest>();
  if (nlohmann::json(received) != message) std::abort();
  return 0;
}
