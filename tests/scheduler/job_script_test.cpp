// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/job_script.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/scheduler/files.h"

namespace scheduler {
namespace {

using namespace std::chrono_literals;

const std::filesystem::path kGolden = test::kSource / "tests/scheduler/golden";
const SegmentName kName{"r7k2m", 0};

Plan timed_plan() {
  Plan plan;
  plan.type = "h100";
  plan.partition = "gpu";
  plan.account = "science";
  plan.qos = "normal";
  plan.fund = "group:vision";
  plan.name = "yolov8m-coco";
  plan.tres_per_node = "gres:gpu:h100:4";
  plan.nodes = 2;
  plan.gpus = plan.ranks = 8;
  plan.gpus_per_node = plan.ranks_per_node = 4;
  plan.batch_per_rank = 16;
  plan.cpus_per_rank = 12;
  plan.memory_per_node_mb = 256'000;
  plan.time_limit_s = 9'000;
  plan.is_timed = true;
  plan.slurm = {{"constraint", "nvlink&ib"}, {"exclusive", "true"}, {"nice", "100"}};
  plan.quote = {.weight_milli = 1'000,
                .expected_s = 9'120,
                .expected = {72'960'000},
                .hold = {72'960'000},
                .basis = "hours asked for"};
  return plan;
}

Plan epochs_plan() {
  Plan plan;
  plan.type = "small";
  plan.partition = "cheap";
  plan.fund = "user:ada";
  plan.name = "yolov8n-coco8";
  plan.tres_per_node = "gres:gpu:1";
  plan.time_limit_s = 5'520;
  plan.quote = {.weight_milli = 125,
                .expected_s = 3'630,
                .expected = {453'750},
                .hold = {701'250},
                .basis = "prior: 100 images/s a GPU"};
  return plan;
}

Site site() {
  Site site;
  site.trainer = "/opt/trainyard/bin/trainyard-trainer";
  return site;
}

// A script in a folder of its own, run by bash with a made-up srun before the real one.
class ScriptRun {
 public:
  explicit ScriptRun(const std::string& run_folder_name = "run") : run_("runs/" + run_folder_name) {
    std::filesystem::create_directories(tools_.path());
    setenv("PATH", (tools_.path().string() + ":" + getenv("PATH")).c_str(), 1);
    setenv("SLURM_JOB_ID", "4711", 1);
    setenv("SLURM_JOB_NODELIST", "n[1-2]", 1);
    for (const char* name : {"SLURM_RESTART_COUNT", "OMP_NUM_THREADS", "TRAINYARD_PREFLIGHT",
                             "NCCL_SOCKET_IFNAME", "OMPI_MCA_btl"}) {
      unsetenv(name);
    }
    make_squeue("exit 1");
    // Says what it was asked, then does as Slurm: the script of a requeued job gets SIGTERM.
    make_tool("scontrol", "echo \"$*\" >> \"$RUN/scontrol\"\n"
                          "read -r _ _ _ script _ < /proc/$PPID/stat\n"
                          "case $1 in requeue*) kill -TERM \"$script\" ;; esac");
  }

  std::string run_dir() const { return run_.path().string(); }
  std::filesystem::path file(const std::string& name) const { return run_.path() / name; }

  // `body`: what srun does. Its arguments are written to srun.arguments beforehand, one a line.
  void make_srun(const std::string& body) {
    const std::filesystem::path path = tools_.path() / "srun";
    test::write_file(path, "#!/bin/bash\nprintf '%s\\n' \"$@\" > \"$SRUN_ARGUMENTS\"\n" + body);
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    setenv("SRUN_ARGUMENTS", (tools_.path() / "srun.arguments").c_str(), 1);
    setenv("RUN", run_dir().c_str(), 1);
  }

  // What squeue prints of the job's end. Without it squeue says nothing.
  void make_squeue(const std::string& body) { make_tool("squeue", body); }
  void make_tool(const std::string& name, const std::string& body) {
    const std::filesystem::path path = tools_.path() / name;
    test::write_file(path, "#!/bin/bash\n" + body + "\n");
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  }

  Site its_site = site();

  pid_t start(const Plan& plan, const SegmentName& name = kName) {
    const std::filesystem::path script = tools_.path() / "script";
    test::write_file(script, render_job_script(plan, name, run_dir(), its_site));
    std::fflush(nullptr);
    const pid_t pid = fork();
    if (pid == 0) {
      const std::string log = (tools_.path() / "log").string();
      if (freopen(log.c_str(), "a", stdout) == nullptr) _exit(125);
      dup2(fileno(stdout), fileno(stderr));
      execl("/bin/bash", "bash", script.c_str(), nullptr);
      _exit(126);
    }
    return pid;
  }

  static int exit_code_of(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1'000 + WTERMSIG(status);
  }

  int run(const Plan& plan, const SegmentName& name = kName) {
    return exit_code_of(start(plan, name));
  }

  std::string log() const { return test::read_file(tools_.path() / "log"); }
  std::vector<std::string> srun_arguments() const {
    std::vector<std::string> lines;
    std::ifstream in(tools_.path() / "srun.arguments");
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }

  void wait_for(const std::filesystem::path& path) const {
    for (int i = 0; i < 1'000 && !std::filesystem::exists(path); ++i) {
      std::this_thread::sleep_for(10ms);
    }
    ASSERT_TRUE(std::filesystem::exists(path)) << path << "\n" << log();
  }

 private:
  test::Folder run_;
  test::Folder tools_{"tools"};
};

constexpr char kExitZero[] = "printf '{\"code\": 0}' > \"$RUN/exit.json\"\n";

// Slurm's times are those of a place where clocks are put back; nobody asks for them but in UTC seconds.
const std::string kTimes =
    "[ \"$SLURM_TIME_FORMAT\" = %s ] && [[ $* = *'--format=%S %e' ]] || exit 1\n";
// A squeue that names this end of a job of an hour.
std::string ends_at(std::int64_t end) {
  return kTimes + "echo " + std::to_string(end - 3'600) + " " + std::to_string(end);
}

TEST(JobScript, IsAsWrittenDown) {
  test::expect_golden(kGolden / "timed_2x4.sbatch",
                      render_job_script(timed_plan(), kName, "/runs/ada/r7k2m", site()));
  test::expect_golden(kGolden / "epochs_1x1.sbatch",
                      render_job_script(epochs_plan(), {"r7k2m", 3}, "/runs/ada/r7k2m", site()));
  test::expect_golden(
      kGolden / "hostile_names.sbatch",
      render_job_script(epochs_plan(), kName, "/runs/it's 50% \"$HOME\"\n#x", site()));
}

TEST(JobScript, WithoutPmixTheRanksMeetByAFileOfTheAttempt) {
  Site without = site();
  without.launch.mpi = "none";
  test::expect_golden(kGolden / "timed_2x4_no_pmix.sbatch",
                      render_job_script(timed_plan(), kName, "/runs/ada/r7k2m", without));

  ScriptRun script;
  script.its_site.launch.mpi = "none";
  script.make_srun("echo \"$TRAINYARD_COMMUNICATOR\" > \"$RUN/place\"\n" + std::string(kExitZero));
  EXPECT_EQ(script.run(timed_plan()), 0);
  const std::string place = test::read_file(script.file("place"));
  EXPECT_TRUE(place.starts_with("nccl+file:///")) << place;
  EXPECT_TRUE(place.ends_with("/.nccl-4711-0\n")) << place;
}

TEST(JobScript, ItsPageShowsTheGoldenScript) {
  const auto blocks = test::blocks_of(test::kSource / "docs/formats/batch_script.md", "bash");
  ASSERT_EQ(blocks.size(), 1u);

  EXPECT_EQ(blocks[0], test::read_file(kGolden / "timed_2x4.sbatch"));
}

TEST(JobScript, StartsTheTrainerWithEveryNumberGiven) {
  ScriptRun script;
  script.make_srun(kExitZero);

  EXPECT_EQ(script.run(timed_plan()), 0);

  const std::vector<std::string> expected = {"--mpi=pmix",
                                             "--nodes=2",
                                             "--ntasks=8",
                                             "--ntasks-per-node=4",
                                             "--cpus-per-task=12",
                                             "--cpu-bind=cores",
                                             "--distribution=block:block",
                                             "--kill-on-bad-exit=1",
                                             "--wait=60",
                                             "bash",
                                             "-c",
                                             "trap \"\" USR2; exec \"$0\" \"$@\"",
                                             "/opt/trainyard/bin/trainyard-trainer",
                                             "train",
                                             "--spec",
                                             script.run_dir() + "/train_spec.json"};
  EXPECT_EQ(script.srun_arguments(), expected);
}

TEST(JobScript, TellsTheTrainerWhoItIsAndWhenTheAllocationEnds) {
  ScriptRun script;
  script.make_srun(std::string("env > \"$RUN/env\"\n") + kExitZero);

  EXPECT_EQ(script.run(timed_plan(), {"r7k2m", 2}), 0);

  std::map<std::string, std::string> env;
  std::ifstream in(script.file("env"));
  for (std::string line; std::getline(in, line);) {
    const std::size_t equals = line.find('=');
    if (equals != std::string::npos) env[line.substr(0, equals)] = line.substr(equals + 1);
  }
  const std::int64_t start = std::stoll(env["TRAINYARD_ALLOCATION_START"]);
  EXPECT_NEAR(static_cast<double>(start), static_cast<double>(time(nullptr)), 60);
  EXPECT_EQ(env["TRAINYARD_RUN_ID"], "r7k2m");
  EXPECT_EQ(env["TRAINYARD_SEGMENT"], "2");
  EXPECT_EQ(env["TRAINYARD_ATTEMPT"], "0");
  EXPECT_EQ(env["TRAINYARD_DEADLINE"], std::to_string(start + 9'000 - 5));
  EXPECT_FALSE(env.contains("OMP_NUM_THREADS"));  // The trainer goes by what it may use.
  EXPECT_EQ(env["TRAINYARD_PREFLIGHT"], "1");
  EXPECT_EQ(env["TRAINYARD_PREFLIGHT_S"], "120");
  EXPECT_EQ(env["OMPI_MCA_btl"], "^openib");
  EXPECT_EQ(env["OMPI_MCA_mpi_yield_when_idle"], "0");
  EXPECT_EQ(env["NCCL_DEBUG"], "WARN");
}

TEST(JobScript, TheDeadlineLiesBeforeTheEndThatSlurmNames) {
  ScriptRun script;
  script.make_srun(std::string("echo $TRAINYARD_DEADLINE > \"$RUN/told\"\n") + kExitZero);
  script.make_squeue(kTimes + "echo 1800000000 1800009000");

  EXPECT_EQ(script.run(timed_plan()), 0) << script.log();

  EXPECT_EQ(test::read_file(script.file("told")), "1800008995\n");
  EXPECT_EQ(test::read_file(script.file("deadline")), "1800008995 1\n");
}

TEST(JobScript, ATimedRunOfSeveralJobsKnowsItsLastByItsLimit) {
  struct Row {
    const char* what;
    std::int64_t limit_s, job_limit_s;
    std::string is_last;
    std::int64_t lead_s;
  };
  for (const Row& row : std::vector<Row>{{"the whole limit", 3'600, 3'600, "0", 30},
                                         {"a minute less", 3'540, 3'600, "1", 5},
                                         {"a limit of two minutes", 120, 120, "0", 30},
                                         {"one of one minute", 60, 60, "0", 15},
                                         {"one job for all hours", 3'600, 0, "1", 5}}) {
    SCOPED_TRACE(row.what);
    ScriptRun script;
    script.make_squeue(kTimes + "echo 1800000000 " + std::to_string(1'800'000'000 + row.limit_s));
    script.make_srun(
        std::string("echo $TRAINYARD_LAST_ATTEMPT $TRAINYARD_DEADLINE > \"$RUN/told\"\n") + kExitZero);
    Plan plan = timed_plan();
    plan.auto_resume = true;
    plan.job_limit_s = row.job_limit_s;

    EXPECT_EQ(script.run(plan), 0) << script.log();

    EXPECT_EQ(test::read_file(script.file("told")),
              row.is_last + " " + std::to_string(1'800'000'000 + row.limit_s - row.lead_s) + "\n");
  }
}

Plan timed_plan_of_jobs() {
  Plan plan = timed_plan();
  plan.auto_resume = true;
  plan.job_limit_s = plan.time_limit_s = 3'600;
  return plan;
}

// Whether it is the last is left to the trainer, which knows its hours.
TEST(JobScript, WhereSqueueSaysNothingATimedRunOfSeveralJobsGoesByItsPlan) {
  ScriptRun script;
  script.make_srun(std::string("echo $((TRAINYARD_DEADLINE - TRAINYARD_ALLOCATION_START)) "
                               "${TRAINYARD_LAST_ATTEMPT-unknown} > \"$RUN/told\"\n") +
                   kExitZero);

  EXPECT_EQ(script.run(timed_plan_of_jobs()), 0) << script.log();

  EXPECT_EQ(test::read_file(script.file("told")), "3570 unknown\n");
}

TEST(JobScript, ATimedRunOfSeveralJobsAsksMoreThanOnceWhetherItIsTheLast) {
  ScriptRun script;
  script.make_srun(std::string("echo $TRAINYARD_LAST_ATTEMPT > \"$RUN/told\"\n") + kExitZero);
  script.make_squeue("echo >> \"$RUN/asked\"; [ \"$(wc -l < \"$RUN/asked\")\" -ge 3 ] || exit 1\n"
                     "echo 1800000000 1800003540");

  EXPECT_EQ(script.run(timed_plan_of_jobs()), 0) << script.log();

  EXPECT_EQ(test::read_file(script.file("told")), "1\n");
}

// The service cuts the limit of a job that Slurm started again too early.
TEST(JobScript, ALimitThatIsCutWhileTheJobRunsReachesTheTrainer) {
  ScriptRun script;
  const std::int64_t now = time(nullptr);
  // 32 s are left, and the next time 31 s of a job that is a minute shorter.
  script.make_squeue(kTimes + "start=" + std::to_string(now + 32 - 3'600) + "\n" +
                     "[ -e \"$RUN/asked\" ] && echo $((start + 60)) " + std::to_string(now + 31) +
                     " || echo $start " + std::to_string(now + 32) + "\n: > \"$RUN/asked\"");
  script.make_srun("until grep -q ' 1$' \"$RUN/deadline\"; do sleep 0.1; done\n" +
                   std::string(kExitZero));

  EXPECT_EQ(script.run(timed_plan_of_jobs()), 0) << script.log();

  EXPECT_EQ(test::read_file(script.file("deadline")), std::to_string(now + 31 - 5) + " 1\n");
}

TEST(JobScript, TheTrainerOfAResumedTimedRunIsToldWhatTheBooksSayItHasUsed) {
  ScriptRun script;
  script.make_srun(
      std::string("echo ${TRAINYARD_SECONDS_USED-none} > \"$RUN/told\"\n") + kExitZero);
  const Plan plan = timed_plan();

  EXPECT_EQ(script.run(plan), 0) << script.log();
  EXPECT_EQ(test::read_file(script.file("told")), "none\n");

  EXPECT_EQ(script.run(plan, {"r7k2m", 1, 1'234}), 0) << script.log();
  EXPECT_EQ(test::read_file(script.file("told")), "1234\n");
}

TEST(JobScript, AnEpochsRunLeavesEarlierTheLongerItIs) {
  struct Row {
    std::int64_t limit_s, lead_s;
  };
  for (const Row& row : std::vector<Row>{{5'520, 30}, {120, 30}, {60, 15}}) {
    SCOPED_TRACE(row.limit_s);
    ScriptRun script;
    script.make_squeue(ends_at(1'800'000'000));
    script.make_srun(kExitZero);
    Plan plan = epochs_plan();
    plan.time_limit_s = row.limit_s;

    EXPECT_EQ(script.run(plan), 0) << script.log();

    EXPECT_EQ(test::read_file(script.file("deadline")),
              std::to_string(1'800'000'000 - row.lead_s) + " \n");
  }
}

TEST(JobScript, AnEpochsRunIsAskedToLeaveWhenItsLimitComesNear) {
  ScriptRun script;
  script.make_squeue(ends_at(time(nullptr) + 29));
  script.make_srun("until [ -e \"$RUN/stop\" ]; do sleep 0.1; done\n"
                   "printf '{\"code\": 10}' > \"$RUN/exit.json\"\n");

  EXPECT_EQ(script.run(epochs_plan()), 11);
}

TEST(JobScript, AnEpochsRunWhoseLimitWasRaisedGoesOn) {
  ScriptRun script;
  const std::int64_t now = time(nullptr);
  script.make_squeue("[ ! -e \"$RUN/asked\" ] || { " + ends_at(now + 9'999) + "; exit; }\n" +
                     ": > \"$RUN/asked\"\n" + ends_at(now + 32));
  script.make_srun("echo \"$TRAINYARD_DEADLINE_FILE\" > \"$RUN/told\"; sleep 4\n"
                   "[ ! -e \"$RUN/stop\" ] || exit 1\n" + std::string(kExitZero));

  EXPECT_EQ(script.run(epochs_plan()), 0) << script.log();

  EXPECT_EQ(test::read_file(script.file("told")), script.file("deadline").string() + "\n");
  EXPECT_EQ(test::read_file(script.file("deadline")), std::to_string(now + 9'999 - 30) + " \n");
}

// Slurm's end at the limit would be the end of the run.
TEST(JobScript, ATrainerThatDoesNotLeaveInTimeIsEndedAndTheRunGoesOnThreeTimesAtOneCheckpoint) {
  for (Plan plan : {epochs_plan(), timed_plan_of_jobs()}) {
    SCOPED_TRACE(plan.is_timed);
    plan.auto_resume = true;
    ScriptRun script;
    script.make_srun("trap '' USR2\nexec sleep 60\n");
    for (int i = 0; i < 4; ++i) {
      std::filesystem::remove(script.file("scontrol"));
      script.make_squeue(ends_at(time(nullptr) + 9));  // 7 s before it the trainer is ended.

      EXPECT_EQ(script.run(plan), 128 + SIGTERM) << script.log();

      EXPECT_EQ(std::filesystem::exists(script.file("scontrol")), i < 3) << i << script.log();
    }
  }
  Plan plan = epochs_plan();  // Nobody allowed it: the time is the trainer's to the last second.
  EXPECT_EQ(render_job_script(plan, kName, "/runs/x", site()).find("KILL"), std::string::npos);
}

TEST(JobScript, AnyFolderNameIsOneWord) {
  for (const char* name : {"with space", "it's", "$HOME", "`id`", "\"quoted\"", "a\\b", "*", "-x",
                           "läufe", "50%", "new\nline", "semi;colon & co", "!x"}) {
    SCOPED_TRACE(name);
    ScriptRun script(name);
    script.make_srun("printf '{\"code\":7}' > \"$RUN/exit.json\"\n");

    EXPECT_EQ(script.run(epochs_plan()), 7) << script.log();

    EXPECT_TRUE(std::filesystem::exists(script.file("attempts.jsonl")));
    if (std::string(name).find('\n') == std::string::npos) {
      EXPECT_EQ(script.srun_arguments().back(), script.run_dir() + "/train_spec.json");
    }
  }
}

TEST(JobScript, TheExitCodeIsWhatRankZeroWrote) {
  struct Row {
    const char* what;
    const char* body;
    int code;
  };
  const std::vector<Row> rows = {
      {"finished", "printf '{\"code\":0,\"reason\":\"finished\"}\\n' > \"$RUN/exit.json\"", 0},
      {"stopped, srun says 143",
       "printf '{\"code\": 10, \"epoch\": 3}' > \"$RUN/exit.json\"; exit 143", 10},
      {"over several lines",
       "printf '{\\n  \"attempt\": 1,\\n  \"code\" : 22,\\n  \"epoch\": 3\\n}\\n' > "
       "\"$RUN/exit.json\"",
       22},
      {"a message that quotes a code",
       "printf '%s' '{\"code\":21,\"message\":\"\\\"code\\\":5\"}' > \"$RUN/exit.json\"", 21},
      {"nothing written, srun fails", "exit 137", 137},
      {"nothing written, srun content", "exit 0", 1},
      {"torn", "printf '{\"cod' > \"$RUN/exit.json\"", 1},
      {"empty", ": > \"$RUN/exit.json\"; exit 9", 9},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.what);
    ScriptRun script;
    script.make_srun(std::string(row.body) + "\n");

    EXPECT_EQ(script.run(epochs_plan()), row.code) << script.log();
  }
}

TEST(JobScript, AnOldExitFileDoesNotSpeakForThisAttempt) {
  ScriptRun script;
  script.make_srun("exit 5\n");
  test::write_file(script.file("exit.json"), "{\"code\": 0}");

  EXPECT_EQ(script.run(epochs_plan()), 5);
}

TEST(JobScript, ANewSegmentForgetsTheStopAndANewAttemptDoesNot) {
  ScriptRun script;
  script.make_srun(std::string("if [ -e \"$RUN/stop\" ]; then touch \"$RUN/seen\"; fi\n") +
                   kExitZero);
  test::write_file(script.file("stop"), "");

  setenv("SLURM_RESTART_COUNT", "1", 1);
  EXPECT_EQ(script.run(epochs_plan()), 0);
  EXPECT_TRUE(std::filesystem::remove(script.file("seen")));

  unsetenv("SLURM_RESTART_COUNT");
  EXPECT_EQ(script.run(epochs_plan()), 0);
  EXPECT_FALSE(std::filesystem::exists(script.file("seen")));
  EXPECT_FALSE(std::filesystem::exists(script.file("stop")));
}

TEST(JobScript, EveryAttemptLeavesALineAndASeparator) {
  ScriptRun script;
  script.make_srun(kExitZero);

  script.run(epochs_plan(), {"r7k2m", 1});
  setenv("SLURM_RESTART_COUNT", "2", 1);
  script.run(epochs_plan(), {"r7k2m", 1});

  std::vector<nlohmann::json> attempts;
  std::ifstream in(script.file("attempts.jsonl"));
  for (std::string line; std::getline(in, line);) attempts.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(attempts.size(), 4u);  // Of each attempt its start and its end.
  EXPECT_EQ(attempts[2]["segment"], 1);
  EXPECT_EQ(attempts[2]["attempt"], 2);
  EXPECT_EQ(attempts[2]["job"], 4'711);
  EXPECT_EQ(attempts[2]["nodes"], "n[1-2]");
  EXPECT_GT(attempts[2]["start"], 1'700'000'000);
  EXPECT_EQ(attempts[3]["attempt"], 2);
  EXPECT_EQ(attempts[3]["code"], 0);
  EXPECT_EQ(attempts[3]["step"], -1);  // Nobody said.
  EXPECT_EQ(attempts[3]["bad_nodes"], "");
  EXPECT_GE(attempts[3]["end"], attempts[2]["start"]);
  EXPECT_NE(script.log().find("---- run r7k2m, segment 1, attempt 2: job 4711 on n[1-2], "),
            std::string::npos);
}

std::string bad_node(const std::string& nodes) {
  return "printf '{\n  \"code\": 32,\n  \"bad_nodes\": \"" + nodes + "\"\n}' > \"$RUN/exit.json\"\n";
}

TEST(JobScript, ABadNodeIsLeftOutAndTheRunPlacedAgain) {
  ScriptRun script;
  InstanceType type;
  type.name = "small";
  type.nodes = 4;
  script.its_site.types = {type};
  Plan plan = epochs_plan();

  script.make_srun(bad_node("n2"));
  EXPECT_EQ(script.run(plan), 32) << script.log();
  EXPECT_EQ(test::read_file(script.file("scontrol")),
            "requeue 4711\nupdate JobId=4711 ExcNodeList=n2\n");

  // The next one too; what the user excluded himself stays out.
  std::filesystem::remove(script.file("scontrol"));
  plan.slurm = {{"exclude", "n[7-8]"}};
  plan.auto_resume = true;
  script.make_srun(bad_node("n1,n2"));
  EXPECT_EQ(script.run(plan), 32);
  EXPECT_EQ(test::read_file(script.file("scontrol")),
            "requeuehold 4711\nupdate JobId=4711 ExcNodeList=n[7-8],n1,n2\n");

  // Another segment begins anew, and three are enough.
  for (int i = 0; i < 4; ++i) {
    std::filesystem::remove(script.file("scontrol"));
    script.make_srun(bad_node("n" + std::to_string(i)));
    EXPECT_EQ(script.run(plan, {"r7k2m", 1}), 32);
    EXPECT_EQ(std::filesystem::exists(script.file("scontrol")), i < 3) << i << script.log();
  }
}

TEST(JobScript, WhereNoOtherNodeIsLeftABadOneEndsTheRun) {
  ScriptRun script;
  InstanceType type;
  type.name = "small";
  type.nodes = 2;
  script.its_site.types = {type};
  Plan plan = epochs_plan();
  plan.nodes = 2;

  script.make_srun(bad_node("n2"));
  EXPECT_EQ(script.run(plan), 32);
  EXPECT_FALSE(std::filesystem::exists(script.file("scontrol"))) << script.log();

  // A preflight that blames no node (all of them cannot write) neither.
  plan.nodes = 1;
  script.make_srun("printf '{\"code\": 32, \"message\": \"\\\"bad_nodes\\\": \\\"n1\\\"\"}' > "
                   "\"$RUN/exit.json\"\n");
  EXPECT_EQ(script.run(plan), 32);
  EXPECT_FALSE(std::filesystem::exists(script.file("scontrol"))) << script.log();
}

TEST(JobScript, ARunThatMayGoOnFollowsACrashThreeTimesAtOneCheckpoint) {
  ScriptRun script;
  Plan plan = epochs_plan();
  script.make_srun("printf '{\"code\": 31}' > \"$RUN/exit.json\"\n");
  EXPECT_EQ(script.run(plan), 31);
  EXPECT_FALSE(std::filesystem::exists(script.file("scontrol")));  // Nobody allowed it.
  std::filesystem::remove(script.file("attempts.jsonl"));

  plan.auto_resume = true;
  const auto goes_on = [&](const char* body) {
    std::filesystem::remove(script.file("scontrol"));
    script.make_srun(body);
    script.run(plan);
    return std::filesystem::exists(script.file("scontrol"));
  };
  const char* const kStalled = "printf '{\"code\": 31}' > \"$RUN/exit.json\"\n";
  const char* const kKilled = "exit 137\n";
  const char* const kKilledLater =
      "mkdir -p \"$RUN/weights\"; date +%s%N > \"$RUN/weights/last.json\"; exit 137\n";

  EXPECT_TRUE(goes_on(kStalled)) << script.log();
  EXPECT_TRUE(goes_on(kKilled));
  EXPECT_TRUE(goes_on(kStalled));
  EXPECT_FALSE(goes_on(kKilled)) << script.log();
  EXPECT_TRUE(goes_on(kKilledLater));  // It has come further since.
  EXPECT_TRUE(goes_on(kStalled));
  EXPECT_FALSE(goes_on("printf '{\"code\": 40}' > \"$RUN/exit.json\"\n"));  // A fault: again the same.
  EXPECT_FALSE(goes_on("exit 9\n"));
}

TEST(JobScript, AStopFileOfAPersonEndsARunThatMayGoOn) {
  ScriptRun script;
  Plan plan = epochs_plan();
  plan.auto_resume = true;
  const auto goes_on = [&](const std::string& body) {
    std::filesystem::remove(script.file("scontrol"));
    script.make_srun(body);
    EXPECT_EQ(script.run(plan), 10) << script.log();
    return std::filesystem::exists(script.file("scontrol"));
  };
  const std::string kByFile =
      "printf '{\"code\": 10, \"step\": 7, \"asked_by\": \"file\"}' > \"$RUN/exit.json\"\n";
  const std::string kPreempted =  // A grace time: the steps get TERM, the script nothing.
      "printf '{\"code\": 10, \"step\": 8, \"asked_by\": \"signal\"}' > \"$RUN/exit.json\"\n";
  // The trainer, which removes the file when it obeys, tells whose it is by what stands in it.
  const std::string kWarned = "trap '' USR2\nkill -USR1 $PPID\nsleep 0.3\n";
  const std::string kBySlurm =
      kWarned + "grep -qx signal \"$RUN/stop\" && rm \"$RUN/stop\" && " + kPreempted;

  EXPECT_FALSE(goes_on(kByFile));
  EXPECT_TRUE(goes_on(kBySlurm));
  // A person's comes first and a signal after it: it is a person's all the same.
  EXPECT_FALSE(goes_on("touch \"$RUN/stop\"\n" + kWarned + "test -s \"$RUN/stop\" || " + kByFile));
  std::filesystem::remove(script.file("stop"));
  EXPECT_TRUE(goes_on(kPreempted));

  // Made while the next attempt waited: it is still there when that begins. The script's own is not.
  setenv("SLURM_RESTART_COUNT", "1", 1);
  test::write_file(script.file("stop"), "");
  goes_on("test -e \"$RUN/stop\" && touch \"$RUN/seen\"\nrm -f \"$RUN/stop\"\n" + kByFile);
  EXPECT_TRUE(std::filesystem::exists(script.file("seen")));
  goes_on("trap '' USR2\nkill -USR1 $PPID\nsleep 0.3\n" + kByFile);
  EXPECT_TRUE(std::filesystem::exists(script.file("stop")));
  goes_on("test -e \"$RUN/stop\" || touch \"$RUN/forgotten\"\n" + kByFile);
  EXPECT_TRUE(std::filesystem::exists(script.file("forgotten")));
  unsetenv("SLURM_RESTART_COUNT");
}

TEST(JobScript, ARunThatMayGoOnIsNotRequeuedForEverWithoutAStep) {
  ScriptRun script;
  Plan plan = epochs_plan();
  plan.auto_resume = true;
  const auto goes_on = [&](int code, int step) {
    std::filesystem::remove(script.file("scontrol"));
    script.make_srun(fmt::format("printf '{{\"code\": {}, \"step\": {}, \"asked_by\": \"signal\"}}' "
                                 "> \"$RUN/exit.json\"\n",
                                 code, step));
    script.run(plan);
    return std::filesystem::exists(script.file("scontrol"));
  };
  EXPECT_TRUE(goes_on(11, 4)) << script.log();
  EXPECT_TRUE(goes_on(11, 40));
  EXPECT_TRUE(goes_on(10, 40));
  EXPECT_TRUE(goes_on(11, 40));
  EXPECT_FALSE(goes_on(11, 40)) << script.log();
  EXPECT_FALSE(goes_on(10, 40));
  EXPECT_NE(script.log().find("ended more than 3 times at step 40"), std::string::npos) << script.log();
  EXPECT_TRUE(goes_on(11, 41));  // It gets on.

  // A new segment counts anew.
  std::filesystem::remove(script.file("scontrol"));
  script.run(plan, {kName.run_id, 1});
  EXPECT_TRUE(std::filesystem::exists(script.file("scontrol")));
}

TEST(JobScript, TheSitesWordsForTheLibrariesGiveWayToTheUsers) {
  ScriptRun script;
  script.its_site.launch.preflight = false;
  script.its_site.launch.cpu_bind = "none";
  script.its_site.launch.environment = {{"NCCL_SOCKET_IFNAME", "ib0"},
                                        {"OMPI_MCA_btl", "tcp,it's"},
                                        {"UCX_NET_DEVICES", "mlx5_0:1"}};
  setenv("NCCL_SOCKET_IFNAME", "eth7", 1);
  script.make_srun(std::string("printf '%s\\n' \"$NCCL_SOCKET_IFNAME\" \"$OMPI_MCA_btl\" "
                               "\"$UCX_NET_DEVICES\" \"${TRAINYARD_PREFLIGHT-unset}\" > \"$RUN/env\"\n") +
                   kExitZero);

  EXPECT_EQ(script.run(epochs_plan()), 0) << script.log();

  EXPECT_EQ(test::read_file(script.file("env")), "eth7\ntcp,it's\nmlx5_0:1\nunset\n");
  const std::vector<std::string> arguments = script.srun_arguments();
  EXPECT_NE(std::find(arguments.begin(), arguments.end(), "--cpu-bind=none"), arguments.end());
  unsetenv("NCCL_SOCKET_IFNAME");
}

TEST(JobScript, ForwardsEveryStopSignalAndWaitsForTheTrainerToLeave) {
  ScriptRun script;
  script.make_srun(
      "stops=0\n"
      "trap 'stops=$((stops + 1)); touch \"$RUN/signal$stops\"' USR2\n"
      "touch \"$RUN/ready\"\n"
      "while [ \"$stops\" -lt 3 ]; do sleep 0.02; done\n"
      "sleep 0.3\n"
      "printf '{\"code\": 10}' > \"$RUN/exit.json\"\n"
      "exit 3\n");

  const pid_t pid = script.start(epochs_plan());
  script.wait_for(script.file("ready"));
  for (const char* seen : {"signal1", "signal2", "signal3"}) {
    kill(pid, SIGUSR1);
    script.wait_for(script.file(seen));
  }

  EXPECT_EQ(ScriptRun::exit_code_of(pid), 10) << script.log();
  EXPECT_TRUE(std::filesystem::exists(script.file("stop")));
}

TEST(JobScript, AStopBeforeSrunListensIsKeptInTheStopFile) {
  ScriptRun script;  // This srun has no handler: USR2 would end it.
  script.make_srun(
      "touch \"$RUN/ready\"\n"
      "while [ ! -e \"$RUN/stop\" ]; do sleep 0.02; done\n"
      "printf '{\"code\": 10}' > \"$RUN/exit.json\"\n");

  const pid_t pid = script.start(epochs_plan());
  script.wait_for(script.file("ready"));
  kill(pid, SIGUSR1);

  EXPECT_EQ(ScriptRun::exit_code_of(pid), 10) << script.log();
}

TEST(JobScript, TheTrainerIgnoresTheStopSignalUntilItListens) {
  ScriptRun script;
  script.make_srun(
      "while [ \"$1\" != bash ]; do shift; done\n"
      "\"$1\" \"$2\" \"$3\" /bin/bash -c 'kill -USR2 $$; trap \"exit 6\" USR2; kill -USR2 $$'\n"
      "printf '{\"code\": %d}' $? > \"$RUN/exit.json\"\n");

  // A shell may not trap what it was told to ignore, so it goes on: that it lives is the claim.
  EXPECT_EQ(script.run(epochs_plan()), 0) << script.log();
}

TEST(JobScript, IsLeftToSlurmWhenItIsCancelled) {
  ScriptRun script;
  script.make_srun("echo $$ > \"$RUN/pid\"; touch \"$RUN/ready\"; exec sleep 30\n");

  const pid_t pid = script.start(epochs_plan());
  script.wait_for(script.file("ready"));
  kill(pid, SIGTERM);

  EXPECT_EQ(ScriptRun::exit_code_of(pid), 1'000 + SIGTERM);
  kill(std::stoi(test::read_file(script.file("pid"))), SIGKILL);  // Slurm ends the step itself.
}

TEST(JobSpecOfAPlan, SaysWhatTheScriptSays) {
  const JobSpec spec = make_job_spec(timed_plan(), {"r7k2m", 2}, "/runs/50%", site(), {"LANG=C"});

  EXPECT_EQ(spec.name, "yolov8m-coco.r7k2m");
  EXPECT_EQ(spec.comment, "trainyard:r7k2m:2");
  EXPECT_EQ(spec.partition, "gpu");
  EXPECT_EQ(spec.account, "science");
  EXPECT_EQ(spec.qos, "normal");
  EXPECT_EQ(spec.work_dir, "/runs/50%");
  EXPECT_EQ(spec.std_out, "/runs/50%%/slurm-%j.out");
  EXPECT_EQ(spec.script, render_job_script(timed_plan(), {"r7k2m", 2}, "/runs/50%", site()));
  EXPECT_EQ(spec.environment, std::vector<std::string>{"LANG=C"});
  EXPECT_EQ(spec.tres_per_node, "gres:gpu:h100:4");
  EXPECT_EQ(spec.nodes, 2);
  EXPECT_EQ(spec.ranks, 8);
  EXPECT_EQ(spec.ranks_per_node, 4);
  EXPECT_EQ(spec.cpus_per_rank, 12);
  EXPECT_EQ(spec.memory_per_node_mb, 256'000);
  EXPECT_EQ(spec.time_limit_s, 9'000);
  EXPECT_EQ(spec.slurm, timed_plan().slurm);
}

TEST(JobComment, IsReadBackAndNothingElseIs) {
  const auto name = parse_comment(to_comment({"r7k2m", 12}));
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->run_id, "r7k2m");
  EXPECT_EQ(name->segment, 12);

  for (const char* comment :
       {"", "trainyard", "trainyard:", "trainyard::1", "trainyard:r:", "trainyard:r:x",
        "trainyard:r:1x", "trainyard:r:-1", "trainyard:r:01", "trainyard:r:1:2",
        "trainyard:r:99999999999", "Trainyard:r:1", " trainyard:r:1", "my run"}) {
    EXPECT_FALSE(parse_comment(comment).has_value()) << comment;
  }
}

TEST(JobStateNames, AreSlurmsAndReadBack) {
  for (int i = 0; i <= static_cast<int>(JobState::kUnknown); ++i) {
    const auto state = static_cast<JobState>(i);
    EXPECT_EQ(job_state_from_name(to_name(state)), state);
  }
  EXPECT_EQ(to_name(JobState::kNodeFail), "NODE_FAIL");
  EXPECT_EQ(job_state_from_name("DREAMING"), JobState::kUnknown);
  EXPECT_TRUE(is_ended(JobState::kOutOfMemory));
  EXPECT_FALSE(is_ended(JobState::kRequeued));
  EXPECT_FALSE(is_ended(JobState::kUnknown));
}

}  // namespace
}  // namespace scheduler
