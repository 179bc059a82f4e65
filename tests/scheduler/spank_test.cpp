// SPDX-License-Identifier: GPL-3.0-or-later
//
// The SPANK plug-in with a pretended Slurm around it; tests/slurm has a real one.
#include <gtest/gtest.h>

#include <map>
#include <string>

extern "C" {  // It is not made for C++.
#include <slurm/spank.h>
}

namespace {

spank_context_t context = S_CTX_ALLOCATOR;
spank_option* registered = nullptr;
std::map<std::string, std::string> control;
int errors = 0;

// Option and all that follows, as sbatch goes about it.
int submit_with(const char* fund) {
  registered = nullptr;
  control.clear();
  errors = 0;
  if (slurm_spank_init(nullptr, 0, nullptr) != 0 || registered == nullptr) return -2;
  const int taken = registered->cb(registered->val, fund, 0);
  return taken != 0 ? taken : slurm_spank_init_post_opt(nullptr, 0, nullptr);
}

}  // namespace

extern "C" {
spank_context_t spank_context(void) { return context; }
spank_err_t spank_option_register(spank_t, spank_option* option) {
  registered = option;
  return static_cast<spank_err_t>(ESPANK_SUCCESS);
}
spank_err_t spank_job_control_setenv(spank_t, const char* name, const char* value, int) {
  control[name] = value;
  return static_cast<spank_err_t>(ESPANK_SUCCESS);
}
void slurm_error(const char*, ...) { ++errors; }
}

namespace {

TEST(Spank, PassesTheFundOnFromEachCommand) {
  for (const spank_context_t each : {S_CTX_ALLOCATOR, S_CTX_LOCAL}) {
    context = each;
    EXPECT_EQ(submit_with("group:vision"), 0);
    EXPECT_STREQ(registered->name, "fund");
    EXPECT_EQ(registered->has_arg, 1);
    EXPECT_EQ(control, (std::map<std::string, std::string>{{"TRAINYARD_FUND", "group:vision"}}));
  }
  const std::string longest = "user:" + std::string(64, 'a');
  EXPECT_EQ(submit_with(longest.c_str()), 0);
  EXPECT_EQ(control.at("TRAINYARD_FUND"), longest);
  EXPECT_EQ(submit_with("user:ada@dept"), 0);
  EXPECT_EQ(control.at("TRAINYARD_FUND"), "user:ada@dept");
}

TEST(Spank, RefusesWhatIsNoFund) {
  context = S_CTX_ALLOCATOR;
  const std::string too_long = "group:" + std::string(65, 'a');
  for (const char* fund : {"", "vision", "group:", "user:a b", "team:x", "user:a\nb", "group:a:b",
                           too_long.c_str(), static_cast<const char*>(nullptr)}) {
    SCOPED_TRACE(fund == nullptr ? "(null)" : fund);
    EXPECT_EQ(submit_with(fund), -1);
    EXPECT_EQ(errors, 1);
    EXPECT_TRUE(control.empty());
  }
}

TEST(Spank, DoesNothingOnAComputeNode) {
  context = S_CTX_REMOTE;
  ASSERT_EQ(slurm_spank_init(nullptr, 0, nullptr), 0);
  control.clear();
  EXPECT_EQ(registered->cb(0, "not judged again", 1), 0);
  EXPECT_EQ(slurm_spank_init_post_opt(nullptr, 0, nullptr), 0);
  EXPECT_TRUE(control.empty());
  registered = nullptr;
  for (const spank_context_t each : {S_CTX_SLURMD, S_CTX_JOB_SCRIPT, S_CTX_ERROR}) {
    context = each;
    EXPECT_EQ(slurm_spank_init(nullptr, 0, nullptr), 0);
  }
  EXPECT_EQ(registered, nullptr);
}

}  // namespace
