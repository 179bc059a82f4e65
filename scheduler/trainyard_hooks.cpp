// SPDX-License-Identifier: GPL-3.0-or-later
//
// trainyard-hooks: takes the messages of a payment service over HTTP and hands them to trainyardd.
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "scheduler/hook_listener.h"
#include "scheduler/service.h"
#include "scheduler/site.h"

namespace {

constexpr int kBadRequest = 2;
constexpr int kEnvironmentFailure = 3;

scheduler::HookAnswer forward(const scheduler::Site& site, const std::string& signature,
                              const std::string& body) {
  using scheduler::HookAnswer;
  nlohmann::json request;
  try {
    request = {{"verb", "webhook"}, {"signature", signature}, {"body", body}};
    (void)request.dump();  // Throws for what is no UTF-8, and so no JSON.
  } catch (const std::exception&) {
    return HookAnswer::kRefused;
  }
  const auto answer = scheduler::ask_service(site, request);
  if (!answer) {
    fmt::print(stderr, "{}\n", answer.error().message);
    return HookAnswer::kNotNow;
  }
  if (answer->value("ok", false)) return HookAnswer::kTaken;
  const std::string kind = answer->value("kind", "error");
  fmt::print(stderr, "{}: {}\n", kind, answer->value("messages", nlohmann::json::array()).dump());
  return kind == "error" ? HookAnswer::kNotNow : HookAnswer::kRefused;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("trainyard-hooks: takes payment messages over HTTP and hands them to trainyardd");
  std::string site_path = "/etc/trainyard/site.toml";
  scheduler::HookSettings settings;
  app.add_option("--site", site_path, "the site's description")->envname("TRAINYARD_SITE")
      ->capture_default_str();
  app.add_option("--listen", settings.listen, "HOST:PORT; TLS is the business of who stands before it")
      ->capture_default_str();
  app.add_option("--path", settings.path, "where messages are posted to")->capture_default_str();
  app.add_option("--header", settings.header, "the header with the signature")->capture_default_str();
  app.add_option("--timeout", settings.timeout_s, "seconds after which a silent sender is dropped")
      ->capture_default_str()->check(CLI::Range(1, 600));
  app.set_version_flag("--version", TRAINYARD_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadRequest;
  }
  const auto outcome = scheduler::read_site(site_path);
  if (!outcome.faults.empty()) {
    fmt::print(stderr, "{}", scheduler::to_text(outcome.faults));
    return kBadRequest;
  }
  // Before any thread starts: the signals are waited for below, and nowhere else.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  const auto listener = scheduler::HookListener::start(
      settings, [&site = outcome.site](const std::string& signature, const std::string& body) {
        return forward(site, signature, body);
      });
  if (!listener) {
    fmt::print(stderr, "trainyard-hooks: {}\n", listener.error().message);
    return kEnvironmentFailure;
  }
  fmt::print(stderr, "trainyard-hooks {} takes POST {} on port {}\n", TRAINYARD_VERSION,
             settings.path, listener->port());
  int signal = 0;
  sigwait(&ends, &signal);
  return 0;
}
