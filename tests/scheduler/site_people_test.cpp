// SPDX-License-Identifier: GPL-3.0-or-later
//
// The tables of site.toml for people: alerts, rights, other nodes, tiers that are taken.
#include <gtest/gtest.h>

#include "sites.h"

namespace scheduler {
namespace {

SiteOutcome read(const std::string& more) { return read_site_text(more + kInstanceType); }

std::string faults_of(const std::string& more) {
  std::string text;
  for (const Fault& fault : read(more).faults) text += fault.message + "\n";
  return text;
}

TEST(SitePeople, AreReadAsTheyStandThere) {
  const auto outcome = read(R"(
[alerts]
command = ["mail", "-s", "{text}", "a@b.c"]
webhook = "https://chat.example.org/x"
timeout_s = 5
[rights]
slurm_operators = true
slurm_coordinators = true
refresh_s = 60
[remote]
listen = "[::]:6838"
address = "ctl1:6838"
munge_socket = "/run/munge/other"
[[tier]]
name = "free"
[[tier]]
name = "pro"
self_service = true
price = "90m"
)");
  ASSERT_TRUE(outcome.faults.empty()) << outcome.faults.front().message;
  const Site& site = outcome.site;
  EXPECT_EQ(site.alerts.command.size(), 4u);
  EXPECT_EQ(site.alerts.timeout_s, 5);
  EXPECT_TRUE(site.rights.slurm_operators && site.rights.slurm_coordinators);
  EXPECT_EQ(site.rights.refresh_s, 60);
  EXPECT_EQ(site.remote.listen, "[::]:6838");
  EXPECT_EQ(site.remote.munge_socket, "/run/munge/other");
  EXPECT_TRUE(site.tiers.at(1).is_self_service);
  EXPECT_EQ(site.tiers.at(1).price.milli_gpu_s, 5'400'000);
}

TEST(SitePeople, TrustNobodyAndListenNowhereByDefault) {
  const Site site = read("").site;
  EXPECT_FALSE(site.rights.slurm_operators || site.rights.slurm_coordinators);
  EXPECT_TRUE(site.remote.listen.empty() && site.remote.address.empty());
  EXPECT_TRUE(site.alerts.command.empty() && site.alerts.webhook.empty());
}

TEST(SitePeople, FaultsAreNamedWithWhatToWrite) {
  EXPECT_EQ(faults_of("[alerts]\nwebhook = \"chat.example.org\"\n"),
            "alerts.webhook = \"chat.example.org\" begins with neither \"https://\" nor \"http://\".\n");
  EXPECT_EQ(faults_of("[alerts]\ncommand = [\"\", \"x\"]\n"),
            "alerts.command begins with an empty text; write the program first.\n");
  EXPECT_EQ(faults_of("[rights]\nslurm_operators = 1\n"),
            "rights.slurm_operators is a whole number. It takes true or false.\n");
  EXPECT_NE(faults_of("[remote]\naddress = \"ctl1\"\n").find("is no HOST:PORT"), std::string::npos);
  EXPECT_NE(faults_of("[remote]\nmunge_socket = \"here\"\n").find("not an absolute path"),
            std::string::npos);
  EXPECT_EQ(faults_of("[[tier]]\nname = \"a\"\nprice = \"1h\"\n"),
            "tier.price is for users who take the tier themselves: self_service = true.\n");
  EXPECT_EQ(faults_of("[[tier]]\nname = \"a\"\nself_service = true\nprice = \"cheap\"\n"),
            "price = \"cheap\" is no amount of GPU-hours. Examples: \"10h\", \"90m\".\n");
  EXPECT_NE(faults_of("[right]\nslurm_operators = true\n").find("Did you mean \"rights\"?"),
            std::string::npos);
}

}  // namespace
}  // namespace scheduler
