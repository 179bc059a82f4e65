// SPDX-License-Identifier: GPL-3.0-or-later
//
// Whose a run's folder is, and what becomes of the files of those who have lost it.
#include "trainer/run_owner.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <system_error>

#include "tests/trainer/temp_folder.h"
#include "trainer/durable_file.h"

namespace trainer {
namespace {

namespace fs = std::filesystem;

class Owners : public testing::Test {
 protected:
  std::size_t files() const {
    std::size_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(run_))
      count += entry.is_regular_file();
    return count;
  }

  const TempFolder folder_;
  const std::string run_ = folder_.at("run");
  const bool is_made_ = fs::create_directories(run_ + "/weights");
  const std::unique_ptr<Communicator> alone_ = make_local_communicator();
};

TEST_F(Owners, TheOneThatBeganLastHasTheFolder) {
  RunOwner first(run_, "12", 0);
  first.take(*alone_);
  EXPECT_EQ(first.why_lost(), "");

  RunOwner second(run_, "12", 1);
  EXPECT_EQ(second.why_lost(), "");
  second.take(*alone_);

  EXPECT_EQ(first.why_lost(), "another process (" + alone_->host() + ", pid " +
                                  std::to_string(::getpid()) +
                                  ", job 12, attempt 1) has taken this run over; it goes on there");
  EXPECT_EQ(second.why_lost(), "");
}

// It fails before it trains, while another has begun: what it would say is nobody's business.
TEST_F(Owners, AProcessThatHasNotTakenTheFolderYetLosesItToo) {
  const RunOwner first(run_);
  RunOwner second(run_);
  second.take(*alone_);

  EXPECT_NE(first.why_lost(), "");
}

TEST_F(Owners, AFileThatNamesNobodyTakesTheFolderFromNobody) {
  RunOwner owner(run_);
  owner.take(*alone_);
  for (const char* text : {"", "{", "[]", R"({"token": 7})"}) {
    SCOPED_TRACE(text);
    write_durably(run_ + "/owner.json", text);
    EXPECT_EQ(owner.why_lost(), "");
  }
  fs::remove(run_ + "/owner.json");
  EXPECT_EQ(owner.why_lost(), "");
}

TEST_F(Owners, TheFileIsThatOfTheDocumentation) {
  RunOwner(run_, "4711", 1).take(*alone_);
  nlohmann::json json = nlohmann::json::parse(read_file(run_ + "/owner.json"));

  EXPECT_EQ(json.at("token").get<std::string>().size(), 32U);
  json.erase("token");
  EXPECT_EQ(json,
            nlohmann::json(
                {{"host", alone_->host()}, {"pid", ::getpid()}, {"job", "4711"}, {"attempt", 1}}));
}

TEST_F(Owners, PartsOfDeadProcessesAreRemovedAndNothingElse) {
  for (const char* name : {"results.csv.n9.77.0.part", "weights/last-000003.ckpt.n9.77.4.part",
                           "weights/last.json.part"}) {
    std::ofstream(run_ + "/" + name) << "half";
  }
  std::ofstream(run_ + "/weights/last-000002.ckpt") << "whole";

  RunOwner(run_).take(*alone_);

  EXPECT_EQ(files(), 2U);
  EXPECT_TRUE(fs::exists(run_ + "/weights/last-000002.ckpt"));
  EXPECT_TRUE(fs::exists(run_ + "/owner.json"));
}

// As one whose host was cut off in the middle of a write, and sees the folder again.
TEST_F(Owners, AFileThatWasBegunBeforeTheFolderWasLostTakesNoPlace) {
  const std::string path = run_ + "/weights/last-000003.ckpt";
  DurableFile late(path);
  late.write(std::as_bytes(std::span(std::string_view("of the one that lost it"))));

  RunOwner(run_).take(*alone_);
  write_durably(path, "of the owner");

  EXPECT_THROW(late.commit(), std::system_error);
  EXPECT_EQ(read_file(path), "of the owner");
}

TEST_F(Owners, TwoWritersOfOneFileHaveTheirOwnParts) {
  const std::string path = run_ + "/results.csv";
  DurableFile first(path), second(path);
  first.write(std::as_bytes(std::span(std::string_view("first, and the longer one"))));
  second.write(std::as_bytes(std::span(std::string_view("second"))));

  first.commit();
  EXPECT_EQ(read_file(path), "first, and the longer one");
  second.commit();
  EXPECT_EQ(read_file(path), "second");
  EXPECT_EQ(files(), 1U);
}

}  // namespace
}  // namespace trainer
