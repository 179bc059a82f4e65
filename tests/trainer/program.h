// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs trainyard-trainer, whose path the build gives as TRAINER_PROGRAM.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

struct ProgramRun {
  int code = 0;
  std::string output;  // Standard output.
  std::string errors;
};

// `arguments` as a shell takes them.
inline ProgramRun run_trainer(const std::string& arguments) {
  ProgramRun run;
  char errors[] = "/tmp/trainyard-errors-XXXXXX";
  const int descriptor = ::mkstemp(errors);
  if (descriptor < 0) throw std::runtime_error(errors);
  ::close(descriptor);
  std::string command = TRAINER_PROGRAM " ";
  command += arguments;
  command += " 2>";
  command += errors;
  const auto take_all = [](std::FILE* file) {
    std::string text;
    char part[4096];
    for (std::size_t size = 0; (size = std::fread(part, 1, sizeof part, file)) > 0;) {
      text.append(part, size);
    }
    return text;
  };
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error(command);
  run.output = take_all(pipe);
  const int status = ::pclose(pipe);
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (std::FILE* file = std::fopen(errors, "r")) {
    run.errors = take_all(file);
    std::fclose(file);
  }
  ::unlink(errors);
  return run;
}
