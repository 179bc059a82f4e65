// SPDX-License-Identifier: GPL-3.0-or-later
//
// The input as site.toml. A site without a fault is one that plans can be made of.
#include <cstdint>
#include <cstdlib>

#include "memory_file.h"
#include "scheduler/plan.h"
#include "scheduler/site.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const MemoryFile file({reinterpret_cast<const char*>(data), size});
  const scheduler::SiteOutcome outcome = scheduler::read_site(file.path());
  for (const scheduler::Fault& fault : outcome.faults) {
    if (fault.message.empty() || fault.message.find('\n') != std::string::npos) std::abort();
  }
  if (!outcome.faults.empty()) return 0;
  if (outcome.site.types.empty()) std::abort();
  scheduler::TrainingRequest request;
  request.args.data = "/d.yaml";
  for (const scheduler::InstanceType& type : outcome.site.types) {
    request.resources.type = type.name;
    const auto planned = scheduler::make_plan(request, outcome.site, {}, {100, 20}, {}, "ada",
                                              1'795'507'200);
    const auto* plan = std::get_if<scheduler::Plan>(&planned);
    if (plan == nullptr) continue;
    const bool is_sound = plan->time_limit_s > 0 && plan->quote.hold >= plan->quote.expected &&
                          plan->quote.hold > accounting::Amount{0};
    if (!is_sound) std::abort();
  }
  return 0;
}
