// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs every tables/*.ledger and every ```ledger block of docs/formats/ledger.md, in three ways.
#include "ledger_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <set>

#include "books.h"

namespace accounting {
namespace {

struct Table {
  std::string file;
  std::string text;
  int first_line = 1;
};

// What gtest prints behind the name of a test.
void PrintTo(const Table& table, std::ostream* out) {
  *out << table.file << ":" << table.first_line;
}

std::vector<Table> blocks_of_document(const std::filesystem::path& path) {
  std::vector<Table> blocks;
  std::ifstream input(path);
  std::string line;
  bool is_inside = false;
  for (int number = 1; std::getline(input, line); ++number) {
    if (is_inside && line == "```") {
      is_inside = false;
    } else if (is_inside) {
      blocks.back().text += line + "\n";
    } else if (line == "```ledger") {
      is_inside = true;
      blocks.push_back({.file = path.string(), .text = {}, .first_line = number + 1});
    }
  }
  return blocks;
}

std::vector<Table> all_tables() {
  std::vector<Table> tables;
  for (const auto& entry : std::filesystem::directory_iterator(TRAINYARD_TABLE_DIR)) {
    if (entry.path().extension() != ".ledger") continue;
    tables.push_back({.file = entry.path().string(), .text = content_of(entry.path().string())});
  }
  std::sort(tables.begin(), tables.end(),
            [](const Table& a, const Table& b) { return a.file < b.file; });
  for (Table& block : blocks_of_document(TRAINYARD_LEDGER_FORMAT)) tables.push_back(block);
  return tables;
}

std::string test_name(const testing::TestParamInfo<Table>& info) {
  const std::filesystem::path path(info.param.file);
  std::string name = path.stem().string();
  if (path.extension() == ".md") name = "document_" + name;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name + "_" + std::to_string(info.param.first_line);
}

class LedgerTable : public testing::TestWithParam<Table> {
 protected:
  // Answers of the ledger are compared where the table gives one; `books` may be opened anew.
  static void expect_answer(const TableLine& line, const std::string& answer) {
    if (answer == line.answer) return;
    GTEST_MESSAGE_AT_(
        GetParam().file.c_str(), line.number,
        ("the table says \"" + line.answer + "\", the ledger \"" + answer + "\"").c_str(),
        testing::TestPartResult::kNonFatalFailure);
  }
};

TEST_P(LedgerTable, GivesTheAnswersOfItsLines) {
  Books books;
  UtcSeconds clock = 0;

  for (const TableLine& line : parse_table(GetParam().text, GetParam().first_line)) {
    expect_answer(line, ask(books.ledger, line, clock));
  }

  EXPECT_EQ(must(books.ledger.verify()), std::vector<std::string>{});
}

TEST_P(LedgerTable, GivesTheSameAnswersWhenTheFileIsOpenedAnewForEachLine) {
  const TemporaryFolder folder;
  UtcSeconds clock = 0;

  for (const TableLine& line : parse_table(GetParam().text, GetParam().first_line)) {
    Books books(folder.file("ledger.db"));
    expect_answer(line, ask(books.ledger, line, clock));
  }
}

TEST_P(LedgerTable, GivesTheSameAnswersWhenEachLineIsAskedTwice) {
  Books books;
  UtcSeconds clock = 0;

  for (const TableLine& line : parse_table(GetParam().text, GetParam().first_line)) {
    const std::string first = ask(books.ledger, line, clock);
    const std::string second = ask(books.ledger, line, clock);
    expect_answer(line, first);
    static const std::set<std::string> kDone{"granted", "held",     "extended", "reduced",
                                             "released", "refunded", "set"};
    const bool is_done = kDone.contains(first) || first.starts_with("charged");
    SCOPED_TRACE(GetParam().file + ":" + std::to_string(line.number));
    EXPECT_EQ(second, is_done ? "already_" + first : first);
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, LedgerTable, testing::ValuesIn(all_tables()), test_name);

TEST(LedgerFormat, HasAWorkedExample) {
  EXPECT_FALSE(blocks_of_document(TRAINYARD_LEDGER_FORMAT).empty());
}

}  // namespace
}  // namespace accounting
