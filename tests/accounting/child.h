// SPDX-License-Identifier: GPL-3.0-or-later
// tests/accounting/child.h
//
// A child process that a test may kill, and a pipe on which it reports what it has committed.
#pragma once

#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <cstdlib>
#include <functional>

namespace accounting {

class Child {
 public:
  // `body` gets the end of the pipe to write to; its result is the exit code.
  explicit Child(const std::function<int(int report)>& body) {
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ends[0]);
      ::_exit(body(ends[1]));
    }
    ::close(ends[1]);
    report_ = ends[0];
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) kill_and_wait();
    ::close(report_);
  }

  // How many bytes the child writes from now until it has written `count` or ended.
  [[nodiscard]] int read_reports(int count) const {
    int got = 0;
    char byte = 0;
    while (got < count && ::read(report_, &byte, 1) == 1) ++got;
    return got;
  }
  void kill_and_wait() {
    ::kill(pid_, SIGKILL);
    static_cast<void>(wait_for_exit());
  }
  // Its exit code, or -1 where a signal ended it.
  [[nodiscard]] int wait_for_exit() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  int report_ = -1;
};

}  // namespace accounting
