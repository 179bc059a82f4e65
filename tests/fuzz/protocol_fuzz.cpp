// SPDX-License-Identifier: GPL-3.0-or-later
//
// The input as lines of the service's socket, each asked by the user that its first character chooses.
// Every answer has the form of one, nobody but an admin does what is an admin's, another's run cannot
// be changed, and the books stay right. Where only bob asked, ada's run is charged, given back and
// settled as if he had not.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "scheduler/dispatcher.h"
#include "scheduler/job_script.h"
#include "scheduler/service.h"
#include "tests/scheduler/fake_cluster.h"

namespace {

using nlohmann::json;

const scheduler::Caller kAda{1000, "ada", {"vision"}, false};
const scheduler::Caller kBob{1001, "bob", {}, false};
const scheduler::Caller kRoot{0, "root", {}, true};

scheduler::Site make_site() {
  scheduler::Site site;
  site.path = "site.toml";
  site.default_type = "h100";
  scheduler::InstanceType type;
  type.name = "h100";
  type.partition = "gpu";
  type.gres = "gpu:h100";
  type.nodes = 2;
  type.gpus_per_node = 2;
  type.images_per_s = 10;
  type.weights = {{0, 1000}};
  site.types = {type};
  return site;
}

template <typename T>
T must(scheduler::Expected<T> value) {
  if (!value) std::abort();
  return std::move(*value);
}

// Ada has hours and a running run, "adarun"; the books are in memory.
struct World {
  World() : site(make_site()), database(std::move(*accounting::Database::open(":memory:"))) {
    service = std::make_unique<scheduler::Dispatcher>(must(scheduler::Dispatcher::open(
        site, database, cluster, [](std::uint32_t uid, const scheduler::Site&) {
          return scheduler::Expected<scheduler::Caller>{uid == kBob.uid ? kBob : kAda};
        })));
    tick();
    for (const char* fund : {"user:ada", "group:vision"}) {
      const auto given = service->ledger().grant(
          {std::string("g-") + (fund + 5), fund, {100 * accounting::kGpuHour.milli_gpu_s}, "root", ""},
          cluster.now);
      if (!given) std::abort();
    }
    scheduler::Admission admission;
    admission.run_id = "adarun";
    admission.run_dir = "/runs/adarun";
    admission.request.args.data = "/d.yaml";
    admission.request.resources.time_limit_s = 600;
    admission.data = {100, 20};
    const auto outcome = service->admit(kAda, admission, cluster.now);
    if (!outcome || !std::holds_alternative<scheduler::Admitted>(*outcome)) std::abort();
    const auto job = must(cluster.submit(scheduler::make_job_spec(
        std::get<scheduler::Admitted>(*outcome).plan, {"adarun", 0}, "/runs/adarun", site, {})));
    cluster.start(job.id);
    job_of_ada = job.id;
    tick();
  }
  void tick() {
    ++cluster.now;
    if (!service->tick(cluster.now)) std::abort();
  }
  // Where the run of ada stands; the service itself may end it in time.
  std::string asked_of_ada() const {
    const auto view = service->find("adarun");
    if (!view || !*view) std::abort();
    const scheduler::Segment& segment = (*view)->run.last();
    return std::string(segment.stop_requested ? "s" : "") + (segment.cancel_requested ? "c" : "") +
           (segment.pause_requested ? "p" : "") +
           std::to_string(segment.job.value_or(0)) + segment.submission_failed.value_or("");
  }

  // Its node fails, which is charged and given back.
  void settle_run_of_ada() {
    cluster.now += 30;
    cluster.end(job_of_ada, scheduler::JobState::kNodeFail, 0);
    for (int i = 0; i < 4; ++i) tick();
    const auto view = service->find("adarun");
    const auto balance = service->ledger().balance("user:ada");
    if (!view || !*view || !balance || !*balance) std::abort();
    const scheduler::Segment& segment = (*view)->run.last();
    const bool is_settled = segment.closed && segment.charges.size() == 1 &&
                            segment.charges[0].charged.milli_gpu_s > 0 &&
                            segment.charges[0].refunded == segment.charges[0].charged;
    if (!is_settled || (*balance)->held.milli_gpu_s != 0) std::abort();
    if ((*balance)->available.milli_gpu_s != 100 * accounting::kGpuHour.milli_gpu_s) std::abort();
  }

  scheduler::JobId job_of_ada = 0;
  scheduler::Site site;
  accounting::Database database;
  scheduler::FakeCluster cluster;
  std::unique_ptr<scheduler::Dispatcher> service;
};

const std::set<std::string> kAdminVerbs{"grant", "refund", "price_set", "voucher_make", "export",
                                        "backup", "acts", "audit", "gate", "release"};

void ask(World& world, const scheduler::Caller& caller, const std::string& line) {
  const json request = json::parse(line, nullptr, false);
  if (!request.is_object()) return;  // The socket says so before anything is looked at.
  const auto verb = request.find("verb");
  const std::string name = verb != request.end() && verb->is_string() ? verb->get<std::string>() : "";
  if (caller.is_admin && name == "backup") return;  // Writes where it is told.
  const std::string before = world.asked_of_ada();
  const json answer =
      scheduler::answer_request(*world.service, world.site, caller, request, world.cluster.now);
  (void)answer.dump(-1, ' ', false, json::error_handler_t::replace);
  const bool is_good = answer.at("ok").get<bool>();
  if (is_good ? !answer.contains("result") : answer.at("messages").empty()) std::abort();
  if (is_good && !caller.is_admin && kAdminVerbs.contains(name)) std::abort();
  if (caller.uid == kBob.uid && world.asked_of_ada() != before) std::abort();
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  World world;
  bool is_bob_alone = true;
  std::istringstream lines(std::string(reinterpret_cast<const char*>(data), size));
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    const auto& caller = line[0] == 'b' ? kBob : line[0] == 'r' ? kRoot : kAda;
    is_bob_alone = is_bob_alone && caller.uid == kBob.uid;
    ask(world, caller, line.substr(1));
  }
  world.tick();
  if (is_bob_alone) world.settle_run_of_ada();
  const auto faults = world.service->ledger().verify();
  if (!faults || !faults->empty()) std::abort();
  return 0;
}
