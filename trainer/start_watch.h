// SPDX-License-Identifier: Apache-2.0
// trainer/start_watch.h
//
// Watches over the time before ranks know each other: MPI's initialisation waits for every rank,
// for ever; and over what is to be short. Where they have not met within the limit, one rank says
// which processes of this host are stopped, as far as the kernel tells, and all leave with the exit
// code. Needs no connection.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "trainer/watchdog.h"

namespace trainer {

class StartWatch {
 public:
  struct Options {
    double limit_s =
        600;  // 0: no watch. Time in which this process itself was stopped is left out.
    int exit_code = 31;
    // Called once at most, from the watch's thread, before the process ends.
    std::function<void(const LastWords&)> last_words;
    std::string what = "for all ranks to start";  // It waits.
  };

  explicit StartWatch(Options options);
  ~StartWatch();  // The ranks have met.
  StartWatch(const StartWatch&) = delete;
  StartWatch& operator=(const StartWatch&) = delete;

 private:
  void watch();
  bool has_met(double seconds);  // Within so many seconds from now.
  void end();

  Options options_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool has_met_ = false;  // Guarded by mutex_.
  std::thread thread_;
};

}  // namespace trainer
