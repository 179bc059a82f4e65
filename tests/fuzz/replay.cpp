// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs a fuzz target on every file of a folder, and with a count also on so many damaged copies of
// them: `replay_NAME FOLDER [COUNT]`. Knows nothing of coverage; for compilers without libFuzzer.
// An input that ends the program is left as crash-input in the working folder. Without an input it
// fails: a test that saw nothing has shown nothing.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

// libFuzzer's name, not ours.
// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

const std::string* current = nullptr;  // For the signal handler.

void keep_input(int signal) {
  const int file = ::open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file >= 0 && ::write(file, current->data(), current->size()) < 0) ::_exit(1);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const std::string& bytes) {
  current = &bytes;
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

// One to four places changed, cut out, doubled or filled from another input.
std::string damaged(std::string bytes, const std::string& other, std::mt19937_64& dice) {
  constexpr std::size_t kBytesMax = 1 << 16;
  for (std::uint64_t i = 1 + dice() % 4; i > 0 && !bytes.empty(); --i) {
    const std::size_t at = dice() % bytes.size();
    const std::size_t length = std::min<std::size_t>(1 + dice() % 16, bytes.size() - at);
    switch (dice() % 6) {
      case 0:
        bytes[at] = static_cast<char>(dice());
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << dice() % 8));
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 4:
        bytes.resize(at);
        break;
      default:
        if (!other.empty()) bytes.insert(at, other.substr(dice() % other.size(), length));
    }
  }
  if (bytes.size() > kBytesMax) bytes.resize(kBytesMax);
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    std::signal(signal, keep_input);
  }
  std::vector<std::string> inputs;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[1])) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    std::printf("%s\n", entry.path().c_str());
    std::fflush(stdout);  // The last line names what broke it.
    run(inputs.back());
  }
  if (inputs.empty()) return 1;
  const long count = argc > 2 ? std::atol(argv[2]) : 0;
  std::mt19937_64 dice(1);
  for (long i = 0; i < count; ++i) {
    const std::string bytes =
        damaged(inputs[dice() % inputs.size()], inputs[dice() % inputs.size()], dice);
    run(bytes);
  }
  std::printf("%zu inputs, %ld damaged copies\n", inputs.size(), count);
  return 0;
}
