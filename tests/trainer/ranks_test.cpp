// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs under mpirun with 1, 2 and 4 ranks. Sums are of small integers, so that equality is exact.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <atomic>
#include <cstring>
#include <sstream>

#include "tests/trainer/ranks.h"
#include "tests/trainer/reference_numbers.h"
#include "tests/trainer/temp_folder.h"
#include "trainer/checkpoint.h"
#include "trainer/communicator.h"
#include "trainer/durable_file.h"
#include "trainer/gradient_reducer.h"
#include "trainer/loss.h"
#include "trainer/model.h"
#include "trainer/scenes.h"
#include "trainer/tensor_file.h"
#include "trainer/train.h"
#include "trainer/weights_file.h"

namespace trainer {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string to_text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(Communicator, SumsAndMaximaAreExact) {
  const int ranks = world->size(), rank = world->rank();
  std::vector<float> floats = {static_cast<float>(rank), 1, -static_cast<float>(rank)};
  std::vector<double> doubles(100'000, rank + 1);
  std::vector<std::int64_t> integers = {rank, -rank, std::int64_t{1} << 40};

  world->all_reduce_sum(std::span<float>(floats));
  world->all_reduce_sum(std::span<double>(doubles));
  world->all_reduce_max(std::span<std::int64_t>(integers));

  const int sum = ranks * (ranks - 1) / 2;
  EXPECT_EQ(floats, (std::vector<float>{static_cast<float>(sum), static_cast<float>(ranks),
                                        -static_cast<float>(sum)}));
  EXPECT_EQ(doubles, std::vector<double>(100'000, sum + ranks));
  EXPECT_EQ(integers, (std::vector<std::int64_t>{ranks - 1, 0, std::int64_t{1} << 40}));
}

TEST(Communicator, GathersPartsOfDifferentLengths) {
  const std::string mine(static_cast<std::size_t>(world->rank()) * 3, 'a');

  const auto all = world->all_gather(bytes_of(mine));

  ASSERT_EQ(all.size(), static_cast<std::size_t>(world->size()));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    EXPECT_EQ(to_text(all[rank]), std::string(rank * 3, 'a'));
  }
}

TEST(Communicator, BroadcastsFromAnyRank) {
  for (int root = 0; root < world->size(); ++root) {
    std::vector<std::byte> bytes(1000, static_cast<std::byte>(world->rank()));
    world->broadcast(bytes, root);
    EXPECT_EQ(bytes, std::vector<std::byte>(1000, static_cast<std::byte>(root)));
  }
}

TEST(GradientReducer, SumsBucketByBucketExactly) {
  const int ranks = world->size();
  constexpr std::size_t kBucketBytes = 64;
  GradientReducer reducer(*world, kBucketBytes);
  std::vector<torch::Tensor> tensors = {torch::full({2, 3}, world->rank()), torch::ones({7}),
                                        torch::arange(100, torch::kFloat).view({10, 10}).t(),
                                        torch::full({}, 5)};
  for (torch::Tensor& tensor : tensors) tensor = tensor.to(torch::kFloat);
  const torch::Tensor before = tensors[2].clone();

  reducer.sum(tensors);

  EXPECT_TRUE(torch::equal(tensors[0], torch::full({2, 3}, ranks * (ranks - 1) / 2.0F)));
  EXPECT_TRUE(torch::equal(tensors[1], torch::full({7}, static_cast<float>(ranks))));
  EXPECT_TRUE(torch::equal(tensors[2], before * ranks));
  EXPECT_EQ(tensors[3].item<float>(), 5.0F * static_cast<float>(ranks));
  EXPECT_EQ(reducer.buckets_sent(), ranks == 1 ? 0U : 3U);
}

TEST(Replicas, ADifferenceIsAnErrorThatNamesTheRank) {
  const torch::Tensor same = torch::ones({5});
  torch::Tensor different = torch::ones({5});
  EXPECT_NO_THROW(check_replicas(*world, {same}));
  if (world->size() == 1) return;
  if (world->rank() == 1) different[3] = 2;

  try {
    check_replicas(*world, {different});
    ADD_FAILURE() << "not seen";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("rank 1: "), std::string::npos) << error.what();
  }
}

// Batch norm in evaluation mode: its statistics are those of a rank, not of the global batch.
TEST(Gradients, OfAllRanksTogetherAreThoseOfOneProcess) {
  constexpr std::int64_t kGlobalBatch = 4;
  torch::manual_seed(3);
  DetectionModel model("yolov8n", 3);
  model.eval();
  const torch::Tensor images = torch::rand({kGlobalBatch, 3, 64, 64});
  // Image 2 has nothing on it, the others one to three objects.
  const torch::Tensor targets = torch::tensor({{0.F, 0.F, .5F, .5F, .4F, .6F},
                                               {1.F, 1.F, .3F, .4F, .5F, .5F},
                                               {1.F, 2.F, .7F, .6F, .3F, .4F},
                                               {3.F, 2.F, .5F, .5F, .8F, .8F},
                                               {3.F, 1.F, .2F, .2F, .3F, .3F},
                                               {3.F, 0.F, .8F, .8F, .3F, .2F}});
  const auto gradients_of = [&](std::int64_t first, std::int64_t count, Communicator* ranks) {
    torch::Tensor own = targets.clone();
    own = own.index({(own.select(1, 0) >= first) & (own.select(1, 0) < first + count)}).clone();
    own.select(1, 0).sub_(first);
    model.zero_grad();
    const LossValue loss =
        detection_loss(model.forward(images.narrow(0, first, count)), model.strides(), own, {},
                       kGlobalBatch, [&](double value) {
                         if (ranks != nullptr) ranks->all_reduce_sum(std::span<double>(&value, 1));
                         return value;
                       });
    loss.total.backward();
    std::vector<torch::Tensor> gradients;
    for (const torch::Tensor& parameter : model.parameters()) {
      if (parameter.requires_grad()) gradients.push_back(parameter.grad().clone());
    }
    return gradients;
  };
  const std::vector<torch::Tensor> expected = gradients_of(0, kGlobalBatch, nullptr);

  const std::int64_t share = kGlobalBatch / world->size();
  const std::vector<torch::Tensor> gradients = gradients_of(world->rank() * share, share, world);
  GradientReducer(*world).sum(gradients);

  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, reference::difference(gradients[i], expected[i]));
  }
  EXPECT_LT(largest, 2e-4);
}

// A folder that all ranks see, with a data set of scenes.
class TrainTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string path;
    if (world->rank() == 0) {
      folder_ = std::make_unique<TempFolder>();
      path = folder_->at("");
      make_scenes({.out = path + "scenes", .seed = 5, .train = 18, .val = 4, .size = 64});
    }
    root_ = to_text(world->all_gather(bytes_of(path)).front());
    args_.data = root_ + "scenes/data.yaml";
    args_.epochs = 2;
    args_.batch = 4;
    args_.imgsz = 64;
    args_.nbs = 8;
    args_.workers = 2;
    args_.optimizer = "SGD";
  }
  void TearDown() override { world->barrier(); }

  struct Ways {
    std::int64_t stop_at_call = -1;  // Rank 0's look at the clock that is interrupted.
    double deadline = 0;
    double seconds_per_look = 0.001;
    double started = 1000;  // Before the first look.
    bool is_stopped_at_once = false;
  };
  TrainOutcome run(const std::string& name, Ways ways, Communicator& ranks) {
    std::atomic<bool> stop = ways.is_stopped_at_once;
    std::int64_t looks = 0;
    const auto now = [&] {
      if (++looks == ways.stop_at_call && ranks.rank() == 0) stop = true;
      clock_ += ways.seconds_per_look;
      return clock_;
    };
    clock_ = ways.started;
    const Surroundings around{.communicator = ranks,
                              .now = now,
                              .stop_requested = stop,
                              .allocation_start = 1000,
                              .deadline = ways.deadline,
                              .threads = 1,
                              .output = Surroundings::Output::kNone};
    const TrainOutcome outcome =
        train({.run_id = name, .run_dir = root_ + name, .args = args_}, around);
    looks_ = looks;
    return outcome;
  }
  TrainOutcome run(const std::string& name, Ways ways) { return run(name, ways, *world); }
  TrainOutcome run(const std::string& name) { return run(name, Ways{}, *world); }

  std::string read(const std::string& name) const { return read_file(root_ + name); }
  nlohmann::json exit_record(const std::string& name) const {
    return nlohmann::json::parse(read(name + "/exit.json"));
  }
  // results.csv without its times.
  std::string results(const std::string& name) const {
    std::istringstream lines(read(name + "/results.csv"));
    std::string text;
    for (std::string line; std::getline(lines, line);) {
      const std::size_t comma = line.find(',');
      text += line.substr(0, comma) + line.substr(line.find(',', comma + 1)) + "\n";
    }
    return text;
  }
  // Every tensor of the newest checkpoint.
  std::uint32_t tensors(const std::string& name) const {
    const auto pointer = nlohmann::json::parse(read(name + "/weights/last.json"));
    const TensorFile file = read_tensor_file(
        root_ + name + "/weights/" + pointer.at("generations").at(0).at("file").get<std::string>());
    std::vector<torch::Tensor> all;
    for (const auto& [key, tensor] : file.tensors) all.push_back(tensor);
    return checksum(all);
  }

  std::unique_ptr<TempFolder> folder_;
  std::string root_;
  contract::TrainArgs args_;
  double clock_ = 0;
  std::int64_t looks_ = 0;
};

TEST_F(TrainTest, StoppedAndResumedIsBitForBitTheSame) {
  const TrainOutcome whole = run("whole");
  ASSERT_EQ(whole.code, contract::ExitCode::kFinished);
  EXPECT_EQ(whole.epoch, 2);
  EXPECT_EQ(whole.step, 10);
  const std::int64_t looks = looks_;

  int stops = 0;
  for (const std::int64_t part : {5, 2}) {
    const TrainOutcome outcome = run("parts", {.stop_at_call = looks / part});
    if (outcome.code == contract::ExitCode::kStopped) ++stops;
    if (world->rank() == 0 && outcome.code == contract::ExitCode::kStopped) {
      EXPECT_EQ(exit_record("parts").at("reason"), "stopped");
      EXPECT_EQ(exit_record("parts").at("step"), outcome.step);
    }
  }
  const TrainOutcome parts = run("parts");

  EXPECT_GE(stops, 1);
  EXPECT_EQ(parts.code, contract::ExitCode::kFinished);
  EXPECT_EQ(parts.step, whole.step);
  if (world->rank() == 0) {
    EXPECT_EQ(tensors("parts"), tensors("whole"));
    EXPECT_EQ(results("parts"), results("whole"));
    EXPECT_EQ(read("parts/weights/last.safetensors"), read("whole/weights/last.safetensors"));
  }
}

TEST_F(TrainTest, ACacheOfDecodedImagesChangesNothing) {
  run("plain");
  for (const char* cache : {"ram", "disk"}) {
    SCOPED_TRACE(cache);
    args_.cache = cache;
    run(cache);
    EXPECT_EQ(tensors(cache), tensors("plain"));
    EXPECT_EQ(results(cache), results("plain"));
  }
}

TEST_F(TrainTest, AFinishedRunStaysFinishedUntilMoreIsAskedFor) {
  args_.epochs = 1;
  ASSERT_EQ(run("run").step, 5);

  EXPECT_EQ(run("run").step, 5);
  args_.epochs = 2;
  EXPECT_EQ(run("run").step, 10);
}

TEST_F(TrainTest, AnyNumberOfRanksGoesOn) {
  ASSERT_EQ(run("run", {.is_stopped_at_once = true}).code, contract::ExitCode::kStopped);

  if (world->rank() == 0) {
    const auto alone = make_local_communicator();
    const TrainOutcome outcome = run("run", Ways{}, *alone);
    EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
    EXPECT_EQ(outcome.step, 10);
  }
}

TEST_F(TrainTest, ASignalStopsWithinOneStep) {
  const TrainOutcome outcome = run("run", {.is_stopped_at_once = true});

  EXPECT_EQ(outcome.code, contract::ExitCode::kStopped);
  EXPECT_EQ(outcome.step, 1);
}

TEST_F(TrainTest, TheStopFileStopsAndIsRemoved) {
  if (world->rank() == 0) {
    std::filesystem::create_directories(root_ + "run");
    write_durably(root_ + "run/stop", "");
  }

  const TrainOutcome outcome = run("run");

  EXPECT_EQ(outcome.code, contract::ExitCode::kStopped);
  EXPECT_EQ(outcome.step, 1);
  if (world->rank() == 0) {
    EXPECT_FALSE(std::filesystem::exists(root_ + "run/stop"));
  }
}

TEST_F(TrainTest, TheDeadlineSavesAndLeaves) {
  const TrainOutcome outcome = run("run", {.deadline = 999});

  EXPECT_EQ(outcome.code, contract::ExitCode::kDeadline);
  EXPECT_EQ(outcome.step, 1);
  if (world->rank() == 0) {
    EXPECT_EQ(exit_record("run").at("code"), 11);
  }
}

TEST_F(TrainTest, ATimedRunEndsInsideItsHours) {
  args_.time_h = 0.1;

  const TrainOutcome outcome = run("run", {.seconds_per_look = 1});

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  EXPECT_GE(outcome.epoch, 2);
  if (world->rank() == 0) {
    EXPECT_LE(clock_, 1000 + 360);
    EXPECT_GE(clock_, 1000 + 360 * 0.7);
    EXPECT_TRUE(std::filesystem::exists(root_ + "run/weights/best.safetensors"));
  }
}

TEST_F(TrainTest, ATimedRunShorterThanAnEpochLeavesAModel) {
  args_.time_h = 0.1;

  // Start-up took all but 24 of the 360 seconds.
  const TrainOutcome outcome = run("run", {.seconds_per_look = 0.5, .started = 1000 + 336});

  EXPECT_EQ(outcome.code, contract::ExitCode::kFinished);
  EXPECT_EQ(outcome.epoch, 1);
  EXPECT_LT(outcome.step, 5);
  if (world->rank() == 0) {
    EXPECT_LE(clock_, 1000 + 360);
    EXPECT_NO_THROW(static_cast<void>(load_model(root_ + "run/weights/best.safetensors")));
  }
}

TEST_F(TrainTest, ALossThatIsNotANumberEndsARunWithoutACheckpoint) {
  args_.pretrained = root_ + "nan.safetensors";
  if (world->rank() == 0) {
    torch::NoGradGuard no_grad;
    DetectionModel broken("yolov8n", 4);
    broken.parameters()[0].fill_(std::nan(""));
    save_weights(args_.pretrained, broken, {.class_names = {"a", "b", "c", "d"}});
  }

  const TrainOutcome outcome = run("run");

  EXPECT_EQ(outcome.code, contract::ExitCode::kNotANumber);
  if (world->rank() == 0) {
    EXPECT_EQ(exit_record("run").at("reason"), "not_a_number");
  }
}

TEST_F(TrainTest, BadInputIsRaisedOnAllRanks) {
  args_.data = root_ + "missing.yaml";
  EXPECT_THROW(static_cast<void>(run("run")), BadInput);

  SetUp();
  args_.epochs = 0;
  EXPECT_THROW(static_cast<void>(run("run")), BadInput);

  SetUp();
  args_.batch = 4 * world->size() + 1;
  if (world->size() > 1) {
    EXPECT_THROW(static_cast<void>(run("run")), BadInput);
  }
}

}  // namespace
}  // namespace trainer
