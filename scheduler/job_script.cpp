// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/job_script.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "scheduler/text_file.h"
#include "trainer/contract/exit_code.h"
#include "trainer/contract/train_spec.h"

namespace scheduler {
namespace {

constexpr std::string_view kCommentPrefix = "trainyard:";
constexpr std::string_view kTimeIsUpFile = "time_is_up";
constexpr std::string_view kDeadlineFile = "deadline";
constexpr std::string_view kCheckpointFile = "weights/last.json";  // Changes with every checkpoint.
constexpr int kBadNodesMax = 3;  // Placements of one segment without a node that was bad.
constexpr int kCrashesMax = 3;   // At one checkpoint.
constexpr int kIdleEndsMax = 3;  // Ends by a stop or the deadline at one step.
constexpr std::string_view kOwnStop = "signal";  // In a stop file of its own (docs/formats/run_folder.md).

// One word for a shell, whatever stands in it.
std::string shell_quote(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

// Slurm replaces %j and its like in file names; "%%" is a plain percent sign.
std::string log_pattern(const std::string& run_dir) {
  std::string pattern;
  for (const char c : run_dir) {
    pattern += c;
    if (c == '%') pattern += c;
  }
  return pattern + "/slurm-%j.out";
}

// "2:00:00", "1-12:00:00"
std::string clock_text(std::int64_t seconds) {
  constexpr std::int64_t kDay_s = 86'400;
  const std::string days = seconds < kDay_s ? "" : fmt::format("{}-", seconds / kDay_s);
  return fmt::format("{}{:02}:{:02}:{:02}", days, seconds % kDay_s / 3'600, seconds / 60 % 60,
                     seconds % 60);
}

std::string batch_text(const Plan& plan) {
  return plan.batch_per_rank > 0 ? std::to_string(plan.batch_per_rank) : "as many as fit";
}

// What sbatch would have to be told to submit the same job.
std::string sbatch_lines(const Plan& plan, const SegmentName& name, const std::string& run_dir) {
  std::string lines;
  const auto add = [&lines](std::string_view option, const std::string& value) {
    // A line end in a value would end the comment and begin a command.
    if (!value.empty()) lines += fmt::format("#SBATCH --{}={}\n", option, one_line(value));
  };
  add("job-name", job_name(plan, name));
  add("comment", to_comment(name));
  add("partition", plan.partition);
  add("account", plan.account);
  add("qos", plan.qos);
  add("nodes", std::to_string(plan.nodes));
  add("ntasks", std::to_string(plan.ranks));
  add("ntasks-per-node", std::to_string(plan.ranks_per_node));
  add("cpus-per-task", std::to_string(plan.cpus_per_rank));
  constexpr std::string_view kGres = "gres:";
  add("gres", plan.tres_per_node.starts_with(kGres) ? plan.tres_per_node.substr(kGres.size())
                                                    : plan.tres_per_node);
  if (plan.memory_per_node_mb > 0) add("mem", fmt::format("{}M", plan.memory_per_node_mb));
  add("time", clock_text(plan.time_limit_s));
  for (const auto& [key, value] : plan.slurm) {
    if (key != "exclusive") {
      add(key, shell_quote(value));
    } else if (value == "true") {
      lines += "#SBATCH --exclusive\n";
    }
  }
  add("chdir", shell_quote(run_dir));
  add("output", shell_quote(log_pattern(run_dir)));
  return lines + "#SBATCH --open-mode=append\n#SBATCH --requeue\n";
}

std::string header(const Plan& plan, const SegmentName& name, const std::string& run_dir) {
  return fmt::format(
      "#!/bin/bash\n"
      "# Trainyard run {run}, segment {segment}: \"{plan_name}\".\n"
      "# {gpus} x {type} on {nodes} {node_word}, {batch} images a step and GPU, {limit} at most.\n"
      "# {fund} holds {hold} for it (weight {weight}).\n"
      "# Basis: {basis}.\n"
      "{sbatch}"
      "\n"
      "# Not -e: wait returns above 128 after a signal.\n"
      "set -uo pipefail\n"
      "\n",
      fmt::arg("run", one_line(name.run_id)), fmt::arg("segment", name.segment),
      fmt::arg("plan_name", one_line(plan.name)), fmt::arg("gpus", plan.gpus),
      fmt::arg("type", one_line(plan.type)), fmt::arg("nodes", plan.nodes),
      fmt::arg("node_word", plan.nodes == 1 ? "node" : "nodes"),
      fmt::arg("batch", batch_text(plan)), fmt::arg("limit", clock_text(plan.time_limit_s)),
      fmt::arg("fund", one_line(plan.fund)),
      fmt::arg("hold", accounting::to_gpu_hours(plan.quote.hold)),
      fmt::arg("weight", accounting::format_weight(plan.quote.weight_milli)),
      fmt::arg("basis", one_line(plan.quote.basis)),
      fmt::arg("sbatch", sbatch_lines(plan, name, run_dir)));
}

// How long before the end of the allocation the trainer leaves whatever it is doing. Where the hours
// end it has closed the run by then; elsewhere it has yet to save.
constexpr std::int64_t kTimedLead_s = 5;
std::int64_t saving_lead_s(std::int64_t limit_s) {
  constexpr std::int64_t kLeadMax_s = 30;
  return std::min(kLeadMax_s, limit_s / 4);
}

// Where its hours end is known by the limit: the service gives the last job of a timed run of several
// less than the others (job_limit_s).
std::string deadline_of(const Plan& plan) {
  const std::string timed_end =
      fmt::format("  deadline=$((job_end - {})) last=1\n", kTimedLead_s);
  const std::int64_t limit_s = plan.job_limit_s > 0 ? plan.job_limit_s : plan.time_limit_s;
  const std::string saved = fmt::format("deadline=$((job_end - {}))", saving_lead_s(limit_s));
  if (!plan.is_timed) return fmt::format("  {} last=\n", saved);
  if (plan.job_limit_s == 0) return timed_end;
  return fmt::format(
      "  # One of {limit} s is followed by another; its hours end with a shorter one.\n"
      "  if [ -z \"$job_start\" ]; then\n"
      "    {saved} last=\n"
      "  elif [ $((job_end - job_start)) -lt {limit} ]; then\n"
      "  {timed_end}"
      "  else\n"
      "    {saved} last=0\n"
      "  fi\n",
      fmt::arg("limit", limit_s), fmt::arg("saved", saved), fmt::arg("timed_end", timed_end));
}

// A limit may be raised or cut while the job runs, and the controller may be silent for a while: so
// the trainer has the deadline from a file, which is written again and again.
std::string deadline(const Plan& plan) {
  const bool is_among_jobs = plan.job_limit_s > 0;
  std::string text = fmt::format(
      "# Start and end of this attempt in Slurm's own word, in UTC seconds. It is asked again and\n"
      "# again: the limit may be changed. Until it answers, the end is that of the plan.\n"
      "job_start='' job_end=$((TRAINYARD_ALLOCATION_START + {limit}))\n"
      "ask_times() {{\n"
      "  local times\n"
      "  times=$(SLURM_TIME_FORMAT=%s squeue --noheader --jobs \"${{SLURM_JOB_ID:-0}}\" \\\n"
      "    --format='%S %e' 2> /dev/null)\n"
      "  [[ $times =~ ^([0-9]+)\\ +([0-9]+)\\ *$ ]] || return 1\n"
      "  job_start=${{BASH_REMATCH[1]}} job_end=${{BASH_REMATCH[2]}}\n"
      "}}\n"
      "# By then the trainer has saved and left.\n"
      "tell_deadline() {{\n"
      "{deadline}"
      "  echo \"$deadline $last\" > \"$run_dir\"/{file}.part &&\n"
      "    mv -f \"$run_dir\"/{file}.part \"$run_dir\"/{file}\n"
      "}}\n",
      fmt::arg("limit", is_among_jobs ? plan.job_limit_s : plan.time_limit_s),
      fmt::arg("deadline", deadline_of(plan)), fmt::arg("file", kDeadlineFile));
  text += is_among_jobs ? "for _ in 1 2 3 4 5; do if ask_times; then break; fi; sleep 1; done\n"
                        : "ask_times\n";
  text += fmt::format("tell_deadline\nexport TRAINYARD_DEADLINE_FILE=\"$run_dir\"/{}\n",
                      kDeadlineFile);
  if (!plan.is_timed) return text;
  return text + "export TRAINYARD_DEADLINE=\"$deadline\"\n"
                "if [ -n \"$last\" ]; then export TRAINYARD_LAST_ATTEMPT=\"$last\"; fi\n";
}

// Of an epochs run: asks for a stop, where the trainer has not seen its deadline.
std::string ask_at_deadline(const Plan& plan) {
  if (plan.is_timed) return "";
  return fmt::format("  : > \"$run_dir\"/{}\n  kill -USR1 $$\n", kTimeIsUpFile);
}

// Slurm's own end at the limit would be the run's: the job can go back into the queue only before it.
std::string end_before_limit(const Plan& plan) {
  const bool is_followed = plan.auto_resume && (!plan.is_timed || plan.job_limit_s > 0);
  if (!is_followed) return "";
  constexpr std::int64_t kPart = 4;  // Of the time to save.
  const std::int64_t limit_s = plan.job_limit_s > 0 ? plan.job_limit_s : plan.time_limit_s;
  return fmt::format(
      "  if [ \"$last\" = 1 ]; then return; fi\n"
      "  # A trainer that has not left in time is ended, so that the run can go on.\n"
      "  while left=$((job_end - {lead} - $(date +%s))) && [ \"$left\" -gt 0 ]; do\n"
      "    sleep $((left > 20 ? 20 : left))\n"
      "    ask_times\n"
      "    tell_deadline\n"
      "    if [ \"$last\" = 1 ]; then return; fi\n"
      "  done\n"
      "  echo \"The trainer has not left in time: it is ended before Slurm ends the job.\"\n"
      "  kill -TERM \"$srun_pid\"\n"
      "  sleep 2\n"
      "  kill -KILL \"$srun_pid\"\n",
      fmt::arg("lead", saving_lead_s(limit_s) / kPart));
}

std::string watch_limit(const Plan& plan) {
  return fmt::format(
      "watch_limit() {{\n"
      "  local left pause=15\n"
      "  while left=$((deadline - $(date +%s))) && [ \"$left\" -gt 0 ]; do\n"
      "    sleep $((left > 2 * pause ? pause : left > 2 ? left / 2 : left))\n"
      "    if ! kill -0 $$; then return; fi  # The script has ended.\n"
      "    ask_times\n"
      "    tell_deadline\n"
      "    pause=$((pause < 240 ? 2 * pause : 300))\n"
      "  done\n"
      "{stop}{end}"
      "}} 2> /dev/null\n"
      "watch_limit &\n"
      "watcher=$!\n"
      "\n",
      fmt::arg("stop", ask_at_deadline(plan)), fmt::arg("end", end_before_limit(plan)));
}

// The site's words for the libraries that carry messages; those that the user brought along win.
std::string site_environment(const Site& site) {
  if (site.launch.environment.empty()) return "";
  std::string text = "# The site's, where the user has not set it.\n";
  for (const auto& [name, value] : site.launch.environment) {
    text += fmt::format("[ -n \"${{{0}+set}}\" ] || export {0}={1}\n", name, shell_quote(value));
  }
  return text;
}

// Without PMIx MPI does not know the other ranks: they meet by a file, new with each attempt.
std::string meeting_place(const Site& site) {
  if (site.launch.mpi != "none") return "";
  return "rm -f \"$run_dir\"/.nccl-*\n"
         "export TRAINYARD_COMMUNICATOR="
         "\"nccl+file://$run_dir/.nccl-${SLURM_JOB_ID:-0}-$TRAINYARD_ATTEMPT\"\n"
         "\n";
}

std::string environment(const Plan& plan, const SegmentName& name, const std::string& run_dir,
                        const Site& site) {
  std::string text = fmt::format(
      "TRAINYARD_ALLOCATION_START=$(date +%s)\n"
      "export TRAINYARD_ALLOCATION_START\n"
      "export TRAINYARD_RUN_ID={run}\n"
      "export TRAINYARD_SEGMENT={segment}\n"
      "export TRAINYARD_ATTEMPT=${{SLURM_RESTART_COUNT:-0}}\n"
      "run_dir={run_dir}\n",
      fmt::arg("run", shell_quote(name.run_id)), fmt::arg("segment", name.segment),
      fmt::arg("run_dir", shell_quote(run_dir)));
  if (plan.is_timed && name.used_s > 0) {
    text += fmt::format("# By earlier segments, as the books have it.\n"
                        "export TRAINYARD_SECONDS_USED={}\n",
                        name.used_s);
  }
  text += deadline(plan);
  if (site.launch.preflight) {
    text += fmt::format("export TRAINYARD_PREFLIGHT=1 TRAINYARD_PREFLIGHT_S={}\n",
                        site.launch.preflight_s);
  }
  text += fmt::format("export TRAINYARD_WATCHDOG_S={}\n", site.launch.watchdog_s);
  text += site_environment(site);
  text +=
      "# A rank that waits sleeps between its looks; sched_yield can starve a whole host.\n"
      "export OMPI_MCA_btl=${OMPI_MCA_btl-^openib}\n"
      "export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle-0}\n"
      "export NCCL_DEBUG=${NCCL_DEBUG:-WARN}\n"
      "\n";
  return text + meeting_place(site);
}

// What an earlier attempt or segment left behind must not speak for this one. The stop that an
// earlier attempt was asked for still holds.
std::string forget(const Plan& plan) {
  if (plan.auto_resume) {
    return fmt::format(
        "rm -f \"$run_dir\"/{exit} \"$run_dir\"/{time_is_up}\n"
        "# The service lets it start: what a signal stopped it for is over. A person's stop is not.\n"
        "if [ \"$TRAINYARD_ATTEMPT\" -eq 0 ] || grep -qsx {own} \"$run_dir\"/{stop}; then\n"
        "  rm -f \"$run_dir\"/{stop}\n"
        "fi\n"
        "\n",
        fmt::arg("exit", contract::kExitFile), fmt::arg("time_is_up", kTimeIsUpFile),
        fmt::arg("own", kOwnStop), fmt::arg("stop", contract::kStopFile));
  }
  return fmt::format(
      "if [ -e \"$run_dir\"/{time_is_up} ]; then rm -f \"$run_dir\"/{stop}; fi\n"
      "rm -f \"$run_dir\"/{exit} \"$run_dir\"/{time_is_up}\n"
      "if [ \"$TRAINYARD_ATTEMPT\" -eq 0 ]; then rm -f \"$run_dir\"/{stop}; fi\n"
      "\n",
      fmt::arg("exit", contract::kExitFile), fmt::arg("time_is_up", kTimeIsUpFile),
      fmt::arg("stop", contract::kStopFile));
}

std::string attempt_begin() {
  return "printf '{\"segment\":%d,\"attempt\":%d,\"job\":%d,\"start\":%d,\"nodes\":\"%s\"}\\n' \\\n"
         "  \"$TRAINYARD_SEGMENT\" \"$TRAINYARD_ATTEMPT\" \"${SLURM_JOB_ID:-0}\" \\\n"
         "  \"$TRAINYARD_ALLOCATION_START\" \"${SLURM_JOB_NODELIST:-}\" "
         ">> \"$run_dir\"/attempts.jsonl\n"
         "printf -- '---- run %s, segment %d, attempt %d: job %d on %s, %s ----\\n' \\\n"
         "  \"$TRAINYARD_RUN_ID\" \"$TRAINYARD_SEGMENT\" \"$TRAINYARD_ATTEMPT\" "
         "\"${SLURM_JOB_ID:-0}\" \\\n"
         "  \"${SLURM_JOB_NODELIST:-}\" \"$(date -u +%FT%TZ)\"\n"
         "\n";
}

std::string stop_trap() {
  return fmt::format(
      "# USR1 asks for a stop. srun relays USR2 to every rank; the stop file says the same to "
      "ranks\n"
      "# that do not listen yet. TERM is left to Slurm: the last checkpoint stands.\n"
      "srun_pid=\n"
      "stops=0\n"
      "takes_usr2() {{  # Does process $1 block, ignore or catch USR2? Else it would die of it.\n"
      "  local name mask\n"
      "  while read -r name mask; do\n"
      "    case $name in\n"
      "      SigBlk:|SigIgn:|SigCgt:) if (( 0x$mask & 0x800 )); then return 0; fi ;;\n"
      "    esac\n"
      "  done < \"/proc/$1/status\"\n"
      "  return 1\n"
      "}}\n"
      "ask_to_stop() {{\n"
      "  stops=$((stops + 1))\n"
      "  [ -e \"$run_dir\"/{stop} ] ||  # Whole or not at all: an empty one is a person's.\n"
      "    {{ echo {own} > \"$run_dir\"/{stop}.new && mv \"$run_dir\"/{stop}.new \"$run_dir\"/{stop}; }}\n"
      "  if [ -n \"$srun_pid\" ] && takes_usr2 \"$srun_pid\"; then kill -USR2 \"$srun_pid\"; fi\n"
      "}} 2> /dev/null\n"
      "trap ask_to_stop USR1\n"
      "\n",
      fmt::arg("own", kOwnStop), fmt::arg("stop", contract::kStopFile));
}

// Every number is given: a job of libslurm lacks the variables that sbatch adds, and srun has not
// inherited --cpus-per-task since 22.05.
std::string launch(const Plan& plan, const Site& site) {
  return fmt::format(
      "# The small shell ignores USR2 until the trainer, loaded by then, handles it.\n"
      "srun --mpi={mpi} --nodes={nodes} --ntasks={ranks} --ntasks-per-node={ranks_per_node} \\\n"
      "  --cpus-per-task={cpus} --cpu-bind={bind} --distribution=block:block \\\n"
      "  --kill-on-bad-exit=1 --wait=60 \\\n"
      "  bash -c 'trap \"\" USR2; exec \"$0\" \"$@\"' \\\n"
      "  {trainer} train --spec \"$run_dir\"/{spec} &\n"
      "srun_pid=$!\n"
      "\n",
      fmt::arg("nodes", plan.nodes), fmt::arg("ranks", plan.ranks),
      fmt::arg("ranks_per_node", plan.ranks_per_node), fmt::arg("cpus", plan.cpus_per_rank),
      fmt::arg("mpi", site.launch.mpi), fmt::arg("bind", site.launch.cpu_bind), fmt::arg("trainer", shell_quote(site.trainer)),
      fmt::arg("spec", contract::kSpecFile));
}

std::string wait_for_trainer() {
  return
      "while :; do\n"
      "  stops_before=$stops\n"
      "  wait \"$srun_pid\"\n"
      "  status=$?\n"
      "  if [ \"$stops\" -eq \"$stops_before\" ]; then break; fi  # Else a signal ended the wait.\n"
      "done\n"
      "\n";
}

// "n1,n2" of slurm.exclude as Slurm may have it; the shell adds to it.
std::string excluded_by_user(const Plan& plan) {
  const auto excluded = plan.slurm.find("exclude");
  return excluded == plan.slurm.end() ? "" : excluded->second;
}

// As the user, for the service may not become him. A requeued job's script gets SIGTERM at once, which
// must not end what it still has to say. Where Slurm refuses, the run ends as it did.
std::string requeue_function(const Plan& plan) {
  return fmt::format(
      "# Back into the queue, without the nodes $1; {held}.\n"
      "requeue() {{\n"
      "  local ended='' waited=0\n"
      "  trap 'ended=1' TERM\n"
      "  (\n"
      "    trap '' TERM\n"
      "    scontrol {verb} \"$SLURM_JOB_ID\" || exit 1\n"
      "    [ -z \"$1\" ] || scontrol update JobId=\"$SLURM_JOB_ID\" ExcNodeList=\"$1\" ||\n"
      "      echo \"The next attempt may get the same nodes.\"\n"
      "  )\n"
      "  if [ $? -ne 0 ]; then\n"
      "    trap - TERM\n"
      "    return 1\n"
      "  fi\n"
      "  # Slurm ends the script.\n"
      "  while [ -z \"$ended\" ] && [ \"$waited\" -lt 120 ]; do\n"
      "    sleep 1\n"
      "    waited=$((waited + 1))\n"
      "  done\n"
      "}}\n",
      fmt::arg("held", plan.auto_resume ? "held until the service has set its hours aside"
                                        : "what is left of its hold pays"),
      fmt::arg("verb", plan.auto_resume ? "requeuehold" : "requeue"));
}

// Each cause with its own bound, counted in attempts.jsonl: nodes that the preflight found bad, crashes
// at one and the same checkpoint, ends at one and the same step.
std::string go_on(const Plan& plan, const InstanceType* type) {
  std::string text = requeue_function(plan) + fmt::format(
      "ends_of() {{  # How this segment ended before: lines of attempts.jsonl that match $1.\n"
      "  grep \"^{{\\\"segment\\\":$TRAINYARD_SEGMENT,.*\\\"end\\\":.*$1\" "
      "\"$run_dir\"/attempts.jsonl\n"
      "}}\n"
      "if [ \"$code\" = {bad} ] && [ -n \"$bad_nodes\" ] &&\n"
      "  [ \"$(ends_of '\"code\":{bad},' | wc -l)\" -le {bad_max} ]; then\n"
      "  excluded=$(ends_of '\"code\":{bad},' | sed -n 's/.*\"bad_nodes\":\"\\([^\"]*\\)\".*/\\1/p' |\n"
      "    tr ',' '\\n' | sort -u)\n"
      "  count=$(grep -c . <<< \"$excluded\")\n"
      "  excluded=$(paste -sd, <<< \"$excluded\")\n"
      "  if [ $((count + {nodes})) -le {all_nodes} ]; then\n"
      "    echo \"$bad_nodes is left out; the run is placed again.\"\n"
      "    requeue {user}\"$excluded\"\n"
      "  else\n"
      "    echo \"$bad_nodes is bad, and without it too few of {all_nodes} nodes are left.\"\n"
      "  fi\n"
      "fi\n",
      fmt::arg("bad", static_cast<int>(contract::ExitCode::kBadNode)),
      fmt::arg("bad_max", kBadNodesMax), fmt::arg("nodes", plan.nodes),
      fmt::arg("all_nodes", type == nullptr ? plan.nodes : type->nodes),
      fmt::arg("user", excluded_by_user(plan).empty()
                           ? std::string()
                           : shell_quote(excluded_by_user(plan) + ",")));
  if (!plan.auto_resume) return text;
  return text + fmt::format(
      "# There is more to do, unless a person made the stop file, or no step is made any more.\n"
      "if [ \"$code\" = {deadline} ] || {{ [ \"$code\" = {stopped} ] && [ \"$asked_by\" != file ]; }}; then\n"
      "  if [ \"$(ends_of \"\\\"code\\\":\\({stopped}\\|{deadline}\\),.*\\\"step\\\":$step,\" | wc -l)\" "
      "-le {idle} ]; then\n"
      "    requeue ''\n"
      "  else\n"
      "    echo \"The run has ended more than {idle} times at step $step and does not go on by itself.\"\n"
      "  fi\n"
      "fi\n"
      "# A rank hung, vanished or was ended by a signal: not more than {crashes} times at one "
      "checkpoint.\n"
      "if [ \"$code\" = {stalled} ] || {{ [ -z \"$code\" ] && [ \"$status\" -gt 128 ]; }}; then\n"
      "  if [ \"$(ends_of \"\\\"is_crash\\\":1,\\\"checkpoint\\\":\\\"$saved\\\"\" | wc -l)\" "
      "-le {crashes} ]; then\n"
      "    requeue ''\n"
      "  fi\n"
      "fi\n",
      fmt::arg("stopped", static_cast<int>(contract::ExitCode::kStopped)),
      fmt::arg("deadline", static_cast<int>(contract::ExitCode::kDeadline)),
      fmt::arg("stalled", static_cast<int>(contract::ExitCode::kStalled)),
      fmt::arg("crashes", kCrashesMax), fmt::arg("idle", kIdleEndsMax));
}

// srun's own code may be that of a rank which was ended because another had left.
std::string attempt_end(const Plan& plan, const Site& site) {
  return fmt::format(
      "kill \"$watcher\" 2> /dev/null\n"
      "# Rank 0 wrote how the trainer left; without that it left badly, whatever srun says.\n"
      "of_exit() {{\n"
      "  sed -n \"s/.*\\\"$1\\\"[[:space:]]*:[[:space:]]*$2.*/\\1/p\" \"$run_dir\"/{exit} 2> /dev/null |\n"
      "    head -n 1\n"
      "}}\n"
      "code=$(of_exit code '\\([0-9][0-9]*\\)')\n"
      "bad_nodes=$(of_exit bad_nodes '\"\\([A-Za-z0-9._,-]*\\)\"')\n"
      "{asked_by}"
      "step=$(of_exit step '\\([0-9][0-9]*\\)')\n"
      "step=${{step:--1}}  # It does not say.\n"
      "if [ \"$code\" = {stopped} ] && [ -e \"$run_dir\"/{time_is_up} ]; then code={deadline}; fi\n"
      "saved=$(cksum \"$run_dir\"/{checkpoint} 2> /dev/null | cut -d ' ' -f 1)\n"
      "is_crash=0\n"
      "if [ \"${{code:-$status}}\" = {stalled} ] || [ \"${{code:-$status}}\" -gt 128 ]; then\n"
      "  is_crash=1\n"
      "fi\n"
      "printf '{{\"segment\":%d,\"attempt\":%d,\"job\":%d,\"end\":%d,\"code\":%d,\"is_crash\":%d,' \\\n"
      "  \"$TRAINYARD_SEGMENT\" \"$TRAINYARD_ATTEMPT\" \"${{SLURM_JOB_ID:-0}}\" \"$(date +%s)\" \\\n"
      "  \"${{code:-$status}}\" \"$is_crash\" >> \"$run_dir\"/attempts.jsonl\n"
      "printf '\"checkpoint\":\"%s\",\"step\":%d,\"bad_nodes\":\"%s\"}}\\n' \"$saved\" \"$step\" \"$bad_nodes\" "
      "\\\n"
      "  >> \"$run_dir\"/attempts.jsonl\n"
      "{go_on}"
      "if [ -n \"$code\" ]; then exit \"$code\"; fi\n"
      "if [ \"$status\" -eq 0 ]; then exit 1; fi\n"
      "exit \"$status\"\n",
      fmt::arg("exit", contract::kExitFile), fmt::arg("time_is_up", kTimeIsUpFile),
      fmt::arg("checkpoint", kCheckpointFile),
      fmt::arg("stopped", static_cast<int>(contract::ExitCode::kStopped)),
      fmt::arg("deadline", static_cast<int>(contract::ExitCode::kDeadline)),
      fmt::arg("stalled", static_cast<int>(contract::ExitCode::kStalled)),
      fmt::arg("asked_by", plan.auto_resume ? "asked_by=$(of_exit asked_by '\"\\([a-z]*\\)\"')\n" : ""),
      fmt::arg("go_on", go_on(plan, site.find_type(plan.type))));
}

}  // namespace

std::string to_comment(const SegmentName& name) {
  return fmt::format("{}{}:{}", kCommentPrefix, name.run_id, name.segment);
}

std::optional<SegmentName> parse_comment(const std::string& comment) {
  if (!comment.starts_with(kCommentPrefix)) return std::nullopt;
  const std::string_view rest = std::string_view(comment).substr(kCommentPrefix.size());
  const std::size_t colon = rest.find(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  const std::string_view digits = rest.substr(colon + 1);
  SegmentName name{.run_id = std::string(rest.substr(0, colon))};
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), name.segment);
  if (error != std::errc{} || end != digits.data() + digits.size() || name.segment < 0 ||
      to_comment(name) != comment) {
    return std::nullopt;
  }
  return name;
}

std::string job_name(const Plan& plan, const SegmentName& name) {
  return plan.name + "." + name.run_id;
}

std::string render_job_script(const Plan& plan, const SegmentName& name, const std::string& run_dir,
                              const Site& site) {
  return header(plan, name, run_dir) + environment(plan, name, run_dir, site) + forget(plan) +
         stop_trap() + attempt_begin() + launch(plan, site) + watch_limit(plan) + wait_for_trainer() +
         attempt_end(plan, site);
}

JobSpec make_job_spec(const Plan& plan, const SegmentName& name, const std::string& run_dir,
                      const Site& site, std::vector<std::string> environment) {
  return {.name = job_name(plan, name),
          .comment = to_comment(name),
          .partition = plan.partition,
          .account = plan.account,
          .qos = plan.qos,
          .work_dir = run_dir,
          .std_out = log_pattern(run_dir),
          .script = render_job_script(plan, name, run_dir, site),
          .environment = std::move(environment),
          .tres_per_node = plan.tres_per_node,
          .nodes = plan.nodes,
          .ranks = plan.ranks,
          .ranks_per_node = plan.ranks_per_node,
          .cpus_per_rank = plan.cpus_per_rank,
          .memory_per_node_mb = plan.memory_per_node_mb,
          .time_limit_s = plan.time_limit_s,
          .slurm = plan.slurm};
}

}  // namespace scheduler
