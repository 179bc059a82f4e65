// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/alert_sender.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "accounting/webhook.h"
#include "scheduler/secret_key.h"

namespace scheduler {
namespace {

constexpr int kAtOnce = 4;  // Of each channel in one look.

std::string filled(std::string text, const std::string& name, const std::string& value) {
  for (std::size_t at = 0; (at = text.find(name, at)) != std::string::npos; at += value.size()) {
    text.replace(at, name.size(), value);
  }
  return text;
}

}  // namespace

std::vector<std::string> alert_channels(const Site& site) {
  std::vector<std::string> channels;
  if (!site.alerts.command.empty()) channels.emplace_back("command");
  if (!site.alerts.webhook.empty()) channels.emplace_back("webhook");
  return channels;
}

std::vector<std::string> alert_command(const Site& site, const accounting::Alert& alert) {
  std::vector<std::string> arguments;
  for (std::string word : site.alerts.command) {
    word = filled(std::move(word), "{fund}", alert.fund);
    word = filled(std::move(word), "{level}", std::to_string(alert.level));
    arguments.push_back(filled(std::move(word), "{text}", text_of(alert)));
  }
  return arguments;
}

std::string alert_body(const accounting::Alert& alert) {
  const nlohmann::ordered_json body{{"id", fmt::format("alert-{}", alert.number)},
                                    {"type", "fund.alert"},
                                    {"data",
                                     {{"fund", alert.fund},
                                      {"level", alert.level},
                                      {"available_mgpus", alert.available.milli_gpu_s},
                                      {"given_mgpus", alert.given.milli_gpu_s},
                                      {"time", alert.when},
                                      {"text", text_of(alert)}}}};
  return body.dump();
}

Expected<void> AlertSender::begin(const accounting::Alert& alert, const std::string& channel,
                                  UtcSeconds now, SteadyTime steady) {
  const std::chrono::seconds limit{site_->alerts.timeout_s};
  if (channel == "command") {
    return commands_.start(alert.number, alert_command(*site_, alert), text_of(alert) + "\n", limit,
                           steady);
  }
  const auto key = secret_key(site_->database + ".alert_key");
  if (!key) return tl::unexpected(key.error());
  const std::string body = alert_body(alert);
  return posts_.start(alert.number, site_->alerts.webhook,
                      {"Content-Type: application/json", "Expect:",
                       "Trainyard-Signature: " + accounting::sign_webhook(*key, body, now)},
                      body, limit);
}

void AlertSender::end(const SideEnd& ended, const std::string& channel, UtcSeconds now,
                      std::vector<std::string>& log) {
  if (ended.is_good) {
    const auto kept = accounting::alert_sent(*db_, ended.ticket, channel);
    if (!kept) log.push_back(kept.error().message);
    return;
  }
  const auto is_again = accounting::alert_failed(*db_, ended.ticket, channel, now);
  if (!is_again) log.push_back(is_again.error().message);
  log.push_back(fmt::format("alert {} by {}: {}. {}", ended.ticket, channel, ended.trouble,
                            is_again.value_or(true) ? "It is tried again"
                                                    : "It is given up after five times"));
}

std::vector<std::string> AlertSender::pump(UtcSeconds now, SteadyTime steady) {
  std::vector<std::string> log;
  for (const SideEnd& ended : commands_.take(steady)) end(ended, "command", now, log);
  for (const SideEnd& ended : posts_.take()) end(ended, "webhook", now, log);
  for (const std::string& channel : alert_channels(*site_)) {
    const auto waiting = accounting::take_alerts(*db_, channel, kAtOnce, now);
    if (!waiting) {
      log.push_back(waiting.error().message);
      continue;
    }
    for (const accounting::Alert& alert : *waiting) {
      const auto begun = begin(alert, channel, now, steady);
      if (!begun) end({alert.number, false, begun.error().message, ""}, channel, now, log);
    }
  }
  return log;
}

}  // namespace scheduler
