// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/alert_sender.h
//
// Sends the alerts of funds by the site's command and webhook (docs/formats/alert.md), aside: the
// service's look at Slurm never waits for a mail or a web server.
#pragma once

#include <string>
#include <vector>

#include "accounting/alerts.h"
#include "scheduler/http_posts.h"
#include "scheduler/side_command.h"
#include "scheduler/site.h"

namespace scheduler {

using accounting::UtcSeconds;

// The ways that the site has: "command", "webhook".
[[nodiscard]] std::vector<std::string> alert_channels(const Site& site);

// The site's command with {fund}, {level} and {text} filled in.
[[nodiscard]] std::vector<std::string> alert_command(const Site& site, const accounting::Alert& alert);
// The message of the webhook.
[[nodiscard]] std::string alert_body(const accounting::Alert& alert);

class AlertSender {
 public:
  // Both outlive it.
  AlertSender(const Site& site, accounting::Database& db) : site_(&site), db_(&db) {}

  // Starts what waits, takes what has ended. Lines for the log; empty where all went well.
  [[nodiscard]] std::vector<std::string> pump(UtcSeconds now, SteadyTime steady);
  [[nodiscard]] bool is_busy() const { return commands_.running() + posts_.running() > 0; }

 private:
  void end(const SideEnd& ended, const std::string& channel, UtcSeconds now,
           std::vector<std::string>& log);
  [[nodiscard]] Expected<void> begin(const accounting::Alert& alert, const std::string& channel,
                                     UtcSeconds now, SteadyTime steady);

  const Site* site_;
  accounting::Database* db_;
  SideCommands commands_;
  HttpPosts posts_;
};

}  // namespace scheduler
