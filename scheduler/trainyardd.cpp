// SPDX-License-Identifier: GPL-3.0-or-later
//
// trainyardd: the service. One process, one loop; here alone is its clock read.
#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "scheduler/alert_sender.h"
#include "scheduler/books_desk.h"
#include "scheduler/dispatcher.h"
#include "scheduler/restore.h"
#include "scheduler/service.h"
#include "scheduler/slurm_limits.h"
#include "scheduler/slurm_return.h"
#include "scheduler/slurm_rights.h"
#include "scheduler/verifier.h"

namespace {

constexpr int kBadRequest = 2;
constexpr int kEnvironmentFailure = 3;
constexpr std::time_t kTurnInterval_s = 60;
constexpr int kPumpInterval_ms = 200;

volatile std::sig_atomic_t g_stop = 0;
void ask_to_end(int) { g_stop = 1; }

void log(const std::string& text) {
  fmt::print(stderr, "{} {}\n", accounting::format_utc(std::time(nullptr)), text);
}

int fail(const std::string& message) {
  log("trainyardd: " + message);
  return kEnvironmentFailure;
}

// The database has one writer: a second service on the same file is refused.
int lock_database(const std::string& path) {
  const int fd = open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

// What the books do as time goes on. What is to be told of them is sent by the AlertSender.
void turn(scheduler::Dispatcher& dispatcher, const scheduler::Site& site, std::time_t now) {
  const auto messages = scheduler::turn_books(dispatcher, site, now);
  if (!messages) log(messages.error().message);
  for (const std::string& message : messages.value_or(std::vector<std::string>{})) log(message);
}

// Who started this: behind sudo the person, who is named for the log alone.
std::string own_name() {
  const char* person = std::getenv("SUDO_USER");
  const passwd* entry = getpwuid(getuid());
  const std::string account = entry == nullptr ? std::to_string(getuid()) : entry->pw_name;
  return person == nullptr || *person == '\0' ? account : fmt::format("{} (sudo)", person);
}

int restore(const scheduler::Site& site, const std::string& copy) {
  const int lock = lock_database(site.database);
  if (lock < 0) {
    return fail(fmt::format("{}.lock: a trainyardd owns these books. Stop it first", site.database));
  }
  const auto done = scheduler::restore_books(site.database, copy, own_name(), std::time(nullptr));
  if (!done) return fail(done.error().message);
  log(*done);
  return 0;
}

// What RightsCache runs aside: slurmdbd may take its time.
int print_rights() {
  auto cluster = scheduler::open_slurm_cluster();
  if (!cluster) return fail(cluster.error().message);
  const auto rights = (*cluster)->load_rights();
  if (!rights) return fail(rights.error().message);
  fmt::print("{}\n", nlohmann::json(*rights).dump());
  return 0;
}

// What SlurmReturn runs aside. Not a ping: a controller that stands by answers that as well.
int ask_slurm() {
  auto cluster = scheduler::open_slurm_cluster();
  if (!cluster) return fail(cluster.error().message);
  return (*cluster)->facts() ? 0 : kEnvironmentFailure;
}

// What Verifier runs aside.
int print_audit(const scheduler::Site& site) {
  auto cluster = scheduler::open_slurm_cluster();
  if (!cluster) return fail(cluster.error().message);
  fmt::print("{}\n", scheduler::audit_aside(site, **cluster));
  return 0;
}

// What FenceKeeper runs aside.
int look_after_limits(const scheduler::Site& site, const std::string& path) {
  const auto cluster = scheduler::open_slurm_cluster();  // Sets libslurm up.
  if (!cluster) return fail(cluster.error().message);
  const auto round = scheduler::fence_once(site, path);
  if (!round) return fail(round.error().message);
  fmt::print("{}\n", nlohmann::json(*round).dump());
  return 0;
}

std::string own_program() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : "trainyardd";
}

// What goes on beside the look at Slurm and the answers. Whether something is under way that is to be
// looked at again soon.
bool pump(scheduler::AlertSender& alerts, scheduler::RightsCache& rights,
          scheduler::FenceKeeper& fence) {
  const auto steady = std::chrono::steady_clock::now();
  for (const std::string& line : fence.pump(std::time(nullptr), steady)) log(line);
  if (const std::string line = rights.pump(steady); !line.empty()) log(line);
  for (const std::string& line : alerts.pump(std::time(nullptr), steady)) log(line);
  return alerts.is_busy() || rights.is_busy() || fence.is_busy();
}

// One look, where Slurm is not known to be away.
void look(scheduler::Dispatcher& dispatcher, scheduler::SlurmReturn& slurm) {
  using std::chrono::steady_clock;
  const auto begin = steady_clock::now();
  if (!slurm.may_look(begin)) return;
  const auto done = dispatcher.tick(std::time(nullptr));
  if (!done) log(done.error().message);
  slurm.looked(dispatcher.has_looked(),
               std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - begin));
}

int serve(const scheduler::Site& site) {
  const int lock = lock_database(site.database);
  if (lock < 0) {
    return fail(fmt::format("{}.lock: {}. Does another trainyardd own these books?", site.database,
                            std::strerror(errno)));
  }
  if (const auto cut_off = scheduler::cut_off_restore(site.database)) return fail(*cut_off);
  auto database = accounting::Database::open(site.database);
  if (!database) return fail(database.error().message);
  auto cluster = scheduler::open_slurm_cluster();
  if (!cluster) return fail(cluster.error().message);
  auto dispatcher = scheduler::Dispatcher::open(site, *database, **cluster);
  if (!dispatcher) return fail(dispatcher.error().message);
  const auto faults = dispatcher->ledger().verify();
  if (!faults) return fail(faults.error().message);
  if (!faults->empty()) {
    for (const std::string& fault : *faults) log("the books are wrong: " + fault);
    return fail("it does not run on books that do not add up; restore a backup or ask for help");
  }
  scheduler::RightsCache rights(site, {own_program(), "--site", site.path, "--rights"});
  auto service = scheduler::Service::listen(
      site, [&rights](std::uint32_t uid, const scheduler::Site& of) {
        auto caller = scheduler::look_up_caller(uid, of);
        if (caller) scheduler::give_rights(*caller, of, rights.rights());
        return caller;
      });
  if (!service) return fail(service.error().message);
  const auto munge = scheduler::open_munge(site.remote.munge_socket);
  if (!site.remote.listen.empty()) {
    const auto port = service->listen_remote(site.remote.listen, *munge);
    if (!port) return fail(port.error().message);
    log(fmt::format("questions from other nodes at {}", site.remote.listen));
  }
  log(fmt::format("trainyardd {} serves {} with the books {}", TRAINYARD_VERSION, site.socket,
                  site.database));

  scheduler::AlertSender alerts(site, *database);
  scheduler::FenceKeeper fence(site, dispatcher->ledger(),
                               {own_program(), "--site", site.path, "--limits"});
  scheduler::Verifier verifier({own_program(), "--site", site.path, "--audit"});
  dispatcher->audit_by([&verifier] { return verifier.ask(std::chrono::steady_clock::now()); });
  scheduler::SlurmReturn slurm({own_program(), "--site", site.path, "--ask-slurm"});
  std::string last_trouble;
  std::time_t last_turn = 0;
  const int interval_ms = static_cast<int>(site.poll_interval_s * 1000);
  while (g_stop == 0) {
    verifier.forget_old(std::chrono::steady_clock::now());
    look(*dispatcher, slurm);
    if (dispatcher->trouble() != last_trouble) {
      last_trouble = dispatcher->trouble();
      log(last_trouble.empty() ? "Slurm answers again" : last_trouble);
    }
    if (std::time(nullptr) - last_turn >= kTurnInterval_s) {
      last_turn = std::time(nullptr);
      turn(*dispatcher, site, last_turn);
    }
    const auto next_look =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(interval_ms);
    for (int left_ms = interval_ms; left_ms > 0 && g_stop == 0;) {
      const bool is_busy = pump(alerts, rights, fence);
      service->serve(*dispatcher, site, is_busy ? std::min(left_ms, kPumpInterval_ms) : left_ms);
      left_ms = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                     next_look - std::chrono::steady_clock::now())
                                     .count());
    }
  }
  log("ended by a signal");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("trainyardd: owns the books of a cluster's GPU-hours, watches the runs, settles them");
  std::string site_path = "/etc/trainyard/site.toml";
  app.add_option("--site", site_path, "the site's description")->envname("TRAINYARD_SITE")
      ->capture_default_str();
  std::string copy;
  app.add_option("--restore", copy, "put this copy in the place of the books, and end");
  bool is_for_rights = false;
  app.add_flag("--rights", is_for_rights, "print Slurm's operators and coordinators, and end");
  bool is_for_audit = false;
  app.add_flag("--audit", is_for_audit, "audit the books, print what was found, and end");
  bool is_for_slurm = false;
  app.add_flag("--ask-slurm", is_for_slurm, "leave with 0 where Slurm answers");
  std::string spendable;
  app.add_option("--limits", spendable,
                 "look after Slurm's own limits once, by the file that says what funds can spend, and end");
  app.set_version_flag("--version", TRAINYARD_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadRequest;
  }
  if (geteuid() == 0) {
    return fail("does not run as root. Start it as its own account, an Operator of Slurm "
                "(sacctmgr add user trainyard account=... adminlevel=operator)");
  }
  const auto outcome = scheduler::read_site(site_path);
  if (!outcome.faults.empty()) {
    fmt::print(stderr, "{}", scheduler::to_text(outcome.faults));
    return kBadRequest;
  }
  if (is_for_rights) return print_rights();
  if (is_for_slurm) return ask_slurm();
  if (is_for_audit) return print_audit(outcome.site);
  if (!spendable.empty()) return look_after_limits(outcome.site, spendable);
  if (!copy.empty()) return restore(outcome.site, copy);
  struct sigaction action{};
  action.sa_handler = ask_to_end;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return serve(outcome.site);
}
