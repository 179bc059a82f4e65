// SPDX-License-Identifier: GPL-3.0-or-later
#include "scheduler/side_command.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include <fmt/format.h>

extern char** environ;

namespace scheduler {
namespace {

constexpr std::size_t kInputMax = 60'000;  // Less than a pipe takes without waiting.
constexpr std::size_t kOutputMax = 1 << 20;

struct Pipe {
  int read = -1, write = -1;
  Pipe() = default;
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    if (read >= 0) close(read);
    if (write >= 0) close(write);
  }
  bool open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read = ends[0];
    write = ends[1];
    return true;
  }
  int keep_read() {
    const int fd = read;
    read = -1;
    return fd;
  }
};

void drain(int fd, std::string& text) {
  char buffer[16'384];
  while (true) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return;
    text.append(buffer, std::min(static_cast<std::size_t>(got), kOutputMax - text.size()));
  }
}

std::string trouble_of(int status) {
  if (WIFSIGNALED(status)) return fmt::format("signal {}", WTERMSIG(status));
  if (WEXITSTATUS(status) == 127) return "the program was not found, or left with 127";
  return WEXITSTATUS(status) == 0 ? "" : fmt::format("exit code {}", WEXITSTATUS(status));
}

}  // namespace

SideCommands::~SideCommands() {
  for (const Child& child : children_) {
    kill(-child.pid, SIGKILL);
    close(child.output);
    waitpid(child.pid, nullptr, 0);
  }
}

Expected<void> SideCommands::start(std::int64_t ticket, const std::vector<std::string>& arguments,
                                   const std::string& input, std::chrono::seconds limit,
                                   SteadyTime now) {
  if (arguments.empty()) return tl::unexpected(Error{"a command without a program"});
  const auto fail = [&](int code) {
    return tl::unexpected(Error{fmt::format("{}: {}", arguments.front(), std::strerror(code))});
  };
  if (input.size() > kInputMax) return fail(E2BIG);
  Pipe in, out;
  if (!in.open() || !out.open()) return fail(errno);
  if (write(in.write, input.data(), input.size()) != std::ssize(input)) return fail(errno);
  fcntl(out.read, F_SETFL, O_NONBLOCK);

  std::vector<std::string> texts = arguments;
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.write, STDOUT_FILENO);
  // A group of its own, so that its children end with it; signals as if it was started by a shell.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
  sigset_t defaults;
  sigemptyset(&defaults);
  for (const int signal : {SIGPIPE, SIGTERM, SIGINT}) sigaddset(&defaults, signal);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  Child child{.ticket = ticket, .pid = 0, .output = -1, .deadline = now + limit, .limit = limit,
              .text = ""};
  const int fault = posix_spawnp(&child.pid, arguments.front().c_str(), &actions, &attributes,
                                 pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (fault != 0) return fail(fault);
  child.output = out.keep_read();
  children_.push_back(std::move(child));
  return {};
}

std::vector<SideEnd> SideCommands::take(SteadyTime now) {
  std::vector<SideEnd> ended;
  std::erase_if(children_, [&](Child& child) {
    siginfo_t info{};
    const bool is_late = now >= child.deadline;
    drain(child.output, child.text);
    // Not reaped yet: its number stays its own until its group has ended.
    waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED | WNOHANG | WNOWAIT);
    const bool has_left = info.si_pid == child.pid;
    if (!has_left && !is_late) return false;
    // Also where it left by itself: what it left behind ends with it.
    kill(-child.pid, SIGKILL);
    int status = 0;
    while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
    }
    drain(child.output, child.text);
    close(child.output);
    const std::string trouble =
        has_left ? trouble_of(status) : fmt::format("took longer than {} s", child.limit.count());
    ended.push_back({child.ticket, trouble.empty(), trouble, std::move(child.text)});
    return true;
  });
  return ended;
}

}  // namespace scheduler
