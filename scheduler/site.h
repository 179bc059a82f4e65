// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/site.h
//
// site.toml: what the cluster's admin says about instance types, limits and paths
// (docs/formats/site.md). Read by the client, by trainyardd and by nobody else.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "accounting/tariff.h"
#include "scheduler/error.h"
#include "scheduler/tiers.h"

namespace scheduler {

struct InstanceType {
  std::string name;               // "h100"
  std::string partition;          // Slurm's.
  std::string gres;               // "gpu:h100" or "gpu": what is asked of Slurm, without the count.
  int nodes = 0;                  // How many of this type the site has.
  int gpus_per_node = 0;
  int cpus_per_gpu = 1;
  std::int64_t memory_per_gpu_mb = 0;  // 0: not asked of Slurm.
  double images_per_s = 0;        // Training speed of YOLOv8n at 640 px on one GPU; a first guess.
  std::int64_t startup_s = 60;    // From the start of the allocation to the first step.
  std::vector<accounting::WeightPeriod> weights;  // Ascending.
  int line = 0;                   // In site.toml, for messages.
};

struct Limits {
  std::optional<int> max_gpus, max_nodes, max_runs_per_user;  // A run's; a user's open runs.
  std::optional<std::int64_t> max_time_s;                     // [limits] max_hours
  int line = 0;
};

// Partitions on which every job is paid for, also one that never heard of Trainyard.
struct Managed {
  std::vector<std::string> partitions;
  std::string slurm_user = "slurm";              // Slurm's own: asks on behalf of the start gate.
  std::map<std::string, std::string> accounts;   // Slurm account -> fund that pays its jobs.

  [[nodiscard]] bool has(const std::string& partition) const;
};

// Attempts that ended through no fault of their user are charged, and then given back up to the cap.
struct RefundPolicy {
  // Of a training that ended by itself, because its preflight found a bad node.
  static constexpr const char* kBadNode = "BAD_NODE";
  // Of an attempt that the start gate kept out, and Slurm put back.
  static constexpr const char* kStartRefused = "START_REFUSED";
  // Of an attempt that Slurm's Prolog failed for, on a node that Slurm drained.
  static constexpr const char* kLaunchFailed = "LAUNCH_FAILED";
  // Slurm's names, or one of those above.
  std::vector<std::string> states{"NODE_FAIL", "BOOT_FAIL", kStartRefused, kLaunchFailed};
  accounting::Amount cap{6 * accounting::kGpuHour.milli_gpu_s};  // Of one attempt.
};

// How people are told of funds that are nearly spent (docs/formats/alert.md).
struct AlertWays {
  std::vector<std::string> command;  // Program and arguments; empty: none.
  std::string webhook;               // "https://..."; empty: none.
  std::int64_t timeout_s = 30;
};

// Whether Slurm's own trust in people counts here too (scheduler/slurm_rights.h).
struct Rights {
  bool slurm_operators = false;      // AdminLevel Operator or above: admins.
  bool slurm_coordinators = false;   // Coordinators lead the funds of their accounts.
  std::int64_t refresh_s = 300;      // Learnt this often.
};

// What is done about Slurm's own limits (scheduler/slurm_limits.h).
struct SlurmLimits {
  bool limits = false;               // Written for the funds, as a second fence.
  bool check = true;                 // What in Slurm's configuration weakens the holds is a finding.
  std::int64_t refresh_s = 60;       // Both, this often.
};

// How the ranks of every run are started (docs/formats/site.md, [launch]).
struct LaunchWays {
  bool preflight = true;             // A look at the nodes before each attempt trains.
  std::int64_t preflight_s = 120;    // It takes so long at most.
  std::int64_t watchdog_s = 600;     // A rank that is missing ends the attempt after this; 0: never.
  std::string cpu_bind = "cores";    // Slurm's --cpu-bind.
  std::string mpi = "pmix";          // Slurm's --mpi; "none": NCCL alone, by a file in the run's folder.
  std::map<std::string, std::string> environment;  // NCCL_, UCX_ and their like.
};

// Other nodes than the service's, over TCP with MUNGE.
struct Remote {
  std::string listen;         // "HOST:PORT" on which the service listens; empty: it does not.
  std::string address;        // "HOST:PORT" that a client asks where it has no local socket.
  std::string munge_socket;   // Empty: MUNGE's usual one.
};

struct Site {
  std::string path;
  std::string cluster;            // Slurm's ClusterName; empty: whatever Slurm says.
  std::string socket = "/run/trainyard/socket";
  std::string database = "/var/lib/trainyard/books.db";
  std::string service_user = "trainyard";
  double poll_interval_s = 2;
  std::vector<std::string> admin_users, admin_groups;
  std::int64_t unclaimed_hold_s = 300;  // A hold whose job never appeared is released after this.
  std::int64_t record_wait_s = 900;     // slurmdbd's record is awaited this long.
  std::int64_t extend_lead_s = 600;     // An epochs run gets more so long before its limit.
  std::string trainer = "trainyard-trainer";
  std::string runs = "~/trainyard/runs";
  Limits limits;
  std::vector<Tier> tiers;
  std::int64_t quote_valid_s = 86'400;   // [books]: a quote is kept this long.
  std::int64_t webhook_window_s = 300;   // A payment message may be this old.
  std::int64_t least_free_mb = 256;      // With less free on its disk the books take no new hold.
  bool fund_owes_excess = false;         // A usage beyond its hold is the fund's debt.
  AlertWays alerts;
  Rights rights;
  SlurmLimits slurm;
  Remote remote;
  LaunchWays launch;
  Managed managed;
  RefundPolicy refunds;
  std::string default_type, default_account, default_qos;
  int default_gpus = 1;
  std::vector<InstanceType> types;

  [[nodiscard]] const InstanceType* find_type(const std::string& name) const;
  // The type that has the price of these GPUs in this partition; nullptr: none is about it.
  [[nodiscard]] const InstanceType* find_type_at(const std::string& partition,
                                                 const std::string& gres) const;
};

struct SiteOutcome {
  Site site;
  std::vector<Fault> faults;      // With file and line; empty: sound.
};

// All faults at once, unknown keys among them.
[[nodiscard]] SiteOutcome read_site(const std::string& path);

}  // namespace scheduler
