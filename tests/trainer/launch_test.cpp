// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainer/launch.h"

#include <gtest/gtest.h>

#include <ostream>
#include <string>

namespace trainer {
namespace {

struct Case {
  const char* name;
  CpuFacts facts;
  int threads;
  const char* reason;
};
void PrintTo(const Case& each, std::ostream* out) {
  *out << each.name;
}

class Cpus : public testing::TestWithParam<Case> {};

TEST_P(Cpus, AreWhatTheJobWasGiven) {
  const CpuShare share = share_cpus(GetParam().facts);
  EXPECT_EQ(share.threads, GetParam().threads);
  EXPECT_EQ(share.reason, GetParam().reason);
}

const std::vector<int> kFour = {0, 1, 2, 3};

INSTANTIATE_TEST_SUITE_P(
    Launches, Cpus,
    testing::Values(
        Case{"a person's word",
             {.wanted = 3, .per_task = 2, .allowed = kFour, .machine = 8},
             3,
             "OMP_NUM_THREADS"},
        Case{"Slurm's", {.per_task = 2, .allowed = kFour, .machine = 8}, 2, "SLURM_CPUS_PER_TASK"},
        Case{"a mask below Slurm's word",
             {.per_task = 6, .allowed = kFour, .machine = 8},
             4,
             "SLURM_CPUS_PER_TASK = 6, but 4 may be used"},
        Case{"bound ranks",
             {.allowed = kFour, .machine = 8, .local_ranks = 2},
             4,
             "the process's CPUs"},
        Case{"ranks that share a host",
             {.allowed = kFour, .machine = 4, .local_ranks = 2},
             2,
             "4 CPUs shared by 2 ranks"},
        Case{"more ranks than CPUs",
             {.allowed = kFour, .machine = 4, .local_ranks = 8},
             1,
             "4 CPUs shared by 8 ranks"},
        Case{"one process", {.allowed = kFour, .machine = 4}, 4, "the process's CPUs"},
        Case{"nothing known", {}, 1, "the process's CPUs"}));

TEST(OwnCpus, AreAShareOfTheJobsWhereTheRanksOfAHostHaveThemInCommon) {
  // Four cores of two threads, numbered as most hosts do: 0-3 and their siblings 4-7.
  const std::vector<int> siblings = {0, 4, 1, 5, 2, 6, 3, 7};
  const CpuFacts facts{.per_task = 2,
                       .allowed = {0, 1, 2, 4, 5, 6},
                       .machine = 8,
                       .local_ranks = 3,
                       .local_rank = 1};
  const auto with = [&](auto change) {
    CpuFacts changed = facts;
    change(changed);
    return own_cpus(changed, siblings);
  };
  using Own = std::vector<int>;

  EXPECT_EQ(own_cpus(facts, siblings), (Own{1, 5}));
  EXPECT_EQ(with([](CpuFacts& f) { f.local_rank = 2; }), (Own{2, 6}));
  EXPECT_EQ(with([](CpuFacts& f) { f.per_task = 1; }), (Own{4}));
  // Bound by srun, alone, on a host whose other CPUs may be another job's, without Slurm's word.
  EXPECT_EQ(with([](CpuFacts& f) { f.allowed = {1, 5}; }), (Own{1, 5}));
  EXPECT_EQ(with([](CpuFacts& f) { f.local_ranks = 1; }), facts.allowed);
  EXPECT_EQ(with([](CpuFacts& f) { f.machine = 6; }), facts.allowed);
  EXPECT_EQ(with([](CpuFacts& f) { f.per_task = 0; }), facts.allowed);
  // A host whose places are not known.
  EXPECT_EQ(own_cpus(facts, {0, 1}), (Own{2, 4}));
}

TEST(CpuRanges, AreWrittenShort) {
  EXPECT_EQ(to_ranges({}), "");
  EXPECT_EQ(to_ranges({5}), "5");
  EXPECT_EQ(to_ranges({0, 1, 2, 3, 6, 8, 9}), "0-3,6,8-9");
}

TEST(ProcessAge, IsThatOfTheKernelAndNoOlderThanAStartUp) {
  // Field 22 is the start in ticks; the name may look like fields.
  const std::string stat =
      "4711 (a) S 1 (b) S 1 1 1 0 -1 4194560 99 0 0 0 1 2 0 0 20 0 3 0 123450 8192 64 1";

  EXPECT_NEAR(process_age_s(stat, 1242.75, 100), 8.25, 1e-9);
  EXPECT_EQ(process_age_s(stat, 1234, 100), 0) << "older than the host";
  EXPECT_EQ(process_age_s(stat, 1835, 100), 0) << "a shell that became this program";
  for (const char* odd : {"", "4711 (a) S 1 1", "4711 a S",
                          "1 (a) S 1 1 1 0 -1 4 9 0 0 0 1 2 0 0 20 0 3 0 0 8192 64 1"}) {
    EXPECT_EQ(process_age_s(odd, 1242, 100), 0) << odd;
  }
}

TEST(ProcessAge, IsKnownHere) {
  EXPECT_GT(process_age_s(), 0);
}

}  // namespace
}  // namespace trainer
