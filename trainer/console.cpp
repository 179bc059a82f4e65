// SPDX-License-Identifier: Apache-2.0
#include "trainer/console.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>

namespace trainer {

void Console::print(std::string_view line) {
  if (output_ == Surroundings::Output::kNone) return;
  if (is_line_open_) fmt::print("\n");
  is_line_open_ = false;
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

void Console::print_configuration(const contract::TrainArgs& args) {
  constexpr std::size_t kColumns = 100;
  constexpr std::size_t kIndent = 14;
  const auto& table = contract::train_arg_table();
  const auto texts = contract::to_texts(args);
  std::string line, group;
  for (std::size_t i = 0; i < table.size(); ++i) {
    const std::string item = fmt::format("{}={} ", texts[i].first, texts[i].second);
    if (table[i].group != group || line.size() + item.size() > kColumns) {
      if (!line.empty()) print(line);
      line = fmt::format("{:<{}}", table[i].group == group ? "" : table[i].group, kIndent);
      group = table[i].group;
    }
    line += item;
  }
  print(line);
}

void Console::print_step(const StepLine& line) {
  if (output_ != Surroundings::Output::kTerminal) return;
  fmt::print("\r  {}/{}  batch {}/{}  box {:.4g}  cls {:.4g}  dfl {:.4g}  {:.1f} images/s   ",
             line.epoch, line.epochs, line.batch, line.batches, line.losses[0], line.losses[1],
             line.losses[2], line.images_per_s);
  std::fflush(stdout);
  is_line_open_ = true;
}

void Console::print_epoch(const ResultsRow& row, int epochs, double images_per_s, int best_epoch) {
  const auto measured = [](double value, int digits) {
    return std::isnan(value) ? std::string("-") : fmt::format("{:.{}f}", value, digits);
  };
  constexpr int kFew = 3, kMore = 4;
  print(fmt::format(
      "epoch {}/{}  box {:.4f}  cls {:.4f}  dfl {:.4f}  P {}  R {}  mAP50 {}  mAP50-95 {}  "
      "best: epoch {}  {:.1f} images/s  {:.0f} s",
      row.epoch, epochs, row.train_losses[0], row.train_losses[1], row.train_losses[2],
      measured(row.precision, kFew), measured(row.recall, kFew), measured(row.map50, kMore),
      measured(row.map50_95, kMore), best_epoch, images_per_s, row.time_s));
}

}  // namespace trainer
