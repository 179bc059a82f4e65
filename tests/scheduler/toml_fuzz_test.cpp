// SPDX-License-Identifier: GPL-3.0-or-later
//
// Random damage to request files and site.toml: whatever comes, the parsers answer with faults that
// say where, and what they accept survives being written and read again.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "scheduler/request.h"
#include "scheduler/site.h"
#include "tests/scheduler/files.h"

namespace scheduler {
namespace {

constexpr auto kTime = std::chrono::milliseconds(2'000);
constexpr std::uint32_t kSeed = 20'261'124;

class Damage {
 public:
  explicit Damage(std::vector<std::string> seeds) : seeds_(std::move(seeds)) {}

  std::string next() {
    std::string text = seeds_[below(seeds_.size())];
    for (std::size_t edits = 1 + below(4); edits > 0; --edits) edit(text);
    return text;
  }

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : random_() % n; }

  void edit(std::string& text) {
    static const std::vector<std::string> kTokens = {"[",
                                                     "]]",
                                                     "{",
                                                     "}",
                                                     "\"",
                                                     "'''",
                                                     "=",
                                                     ".",
                                                     ",",
                                                     "\n",
                                                     "\\u0000",
                                                     "\\U0010FFFF",
                                                     "nan",
                                                     "-inf",
                                                     "1e999",
                                                     "-9223372036854775808",
                                                     "9223372036854775807",
                                                     "true",
                                                     "1979-05-27",
                                                     "[train]\n",
                                                     "[[instance_type]]\n",
                                                     "\xff",
                                                     "\xed\xa0\x80",
                                                     "#",
                                                     "a.b.c",
                                                     "0x",
                                                     "1_000"};
    const std::size_t at = below(text.size() + 1);
    const std::size_t length = below(16);
    switch (below(5)) {
      case 0:
        text.erase(std::min(at, text.size()), length);
        break;
      case 1:
        text.insert(at, kTokens[below(kTokens.size())]);
        break;
      case 2:
        text.insert(at, text.substr(below(text.size() + 1), length));
        break;
      case 3:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        break;
      default: {
        // Another value for some key.
        const std::size_t equals = text.find('=', at);
        if (equals == std::string::npos) return;
        const std::size_t end = std::min(text.find('\n', equals), text.size());
        text.replace(equals + 1, end - equals - 1, " " + kTokens[below(kTokens.size())]);
      }
    }
  }

  std::vector<std::string> seeds_;
  std::mt19937 random_{kSeed};
};

void expect_whole_lines(const std::vector<Fault>& faults, const std::string& text) {
  for (const Fault& fault : faults) {
    EXPECT_TRUE(fault.where.find("fuzz.toml") != std::string::npos) << fault.where << "\n" << text;
    EXPECT_FALSE(fault.message.empty()) << text;
  }
  const std::string lines = to_text(faults);
  EXPECT_EQ(static_cast<std::size_t>(std::count(lines.begin(), lines.end(), '\n')), faults.size());
}

template <typename Try>
void damage_until_time_is_up(std::vector<std::string> seeds, Try attempt) {
  Damage damage(std::move(seeds));
  const auto end = std::chrono::steady_clock::now() + kTime;
  int texts = 0;
  while (std::chrono::steady_clock::now() < end && !testing::Test::HasFailure()) {
    attempt(damage.next());
    ++texts;
  }
  testing::Test::RecordProperty("texts", texts);
  EXPECT_GT(texts, 50);
}

TEST(TomlFuzz, NoDamageUpsetsTheRequestParser) {
  const test::Folder folder;
  const std::string path = (folder.path() / "fuzz.toml").string();
  std::vector<std::string> seeds;
  for (const char* kind : {"valid", "invalid"}) {
    for (const auto& file :
         test::files_in(test::kSource / "tests/scheduler/requests" / kind, ".toml")) {
      seeds.push_back(test::read_file(file));
    }
  }

  damage_until_time_is_up(seeds, [&path](const std::string& text) {
    test::write_file(path, text);

    const RequestOutcome outcome = read_request(path, {}, "/");

    expect_whole_lines(outcome.faults, text);
    if (!outcome.faults.empty()) return;
    const std::string json = nlohmann::json(outcome.request).dump();
    test::write_file(path, to_toml(outcome.request));
    const RequestOutcome again = read_request(path, {}, "/");
    EXPECT_EQ(to_text(again.faults), "") << text;
    EXPECT_EQ(nlohmann::json(again.request).dump(), json) << text;
  });
}

TEST(TomlFuzz, NoDamageUpsetsTheSiteParser) {
  const test::Folder folder;
  const std::string path = (folder.path() / "fuzz.toml").string();

  damage_until_time_is_up(test::blocks_of(test::kSource / "docs/formats/site.md", "toml"),
                          [&path](const std::string& text) {
                            test::write_file(path, text);

                            const SiteOutcome outcome = read_site(path);

                            expect_whole_lines(outcome.faults, text);
                            if (!outcome.faults.empty()) return;
                            EXPECT_NE(outcome.site.find_type(outcome.site.default_type), nullptr)
                                << text;
                            for (const InstanceType& type : outcome.site.types) {
                              EXPECT_FALSE(type.weights.empty()) << text;
                              EXPECT_GT(type.nodes * type.gpus_per_node, 0) << text;
                            }
                          });
}

}  // namespace
}  // namespace scheduler
