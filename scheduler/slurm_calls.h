// SPDX-License-Identifier: GPL-3.0-or-later
// scheduler/slurm_calls.h
//
// What both files that call libslurm need. Of this folder alone, and of those two.
#pragma once

#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <slurm/slurmdb.h>

#include <fmt/format.h>

#include <cerrno>
#include <string>

#include "scheduler/error.h"

namespace scheduler {

inline std::string copy(const char* text) { return text != nullptr ? text : ""; }

inline Error slurm_error(const std::string& what, int code) {
  return {fmt::format("{}: {} (Slurm error {})", what, slurm_strerror(code), code)};
}

// A connection to slurmdbd for one question. slurmdbd gives each connection one transaction of its
// database, so a kept connection would see for ever what its first question saw.
class DatabaseConnection {
 public:
  DatabaseConnection() {
    std::uint16_t flags = 0;
    connection_ = slurmdb_connection_get(&flags);
  }
  ~DatabaseConnection() {
    if (connection_ != nullptr) slurmdb_connection_close(&connection_);
  }
  DatabaseConnection(const DatabaseConnection&) = delete;
  DatabaseConnection& operator=(const DatabaseConnection&) = delete;
  [[nodiscard]] void* get() const { return connection_; }

 private:
  void* connection_ = nullptr;
};

template <typename Visit>
void each_in(List list, Visit visit) {
  if (list == nullptr) return;
  ListIterator rows = slurm_list_iterator_create(list);
  while (void* row = slurm_list_next(rows)) visit(row);
  slurm_list_iterator_destroy(rows);
}

// The number under which slurmdbd counts GPUs: the first site-defined TRES on most sites, but a
// constant on none.
inline Expected<std::string> find_gpu_tres(void* connection) {
  slurmdb_tres_cond_t condition{};
  slurmdb_init_tres_cond(&condition, 0);
  errno = 0;
  List answer = slurmdb_tres_get(connection, &condition);
  if (answer == nullptr) return tl::unexpected(slurm_error("asking slurmdbd for its TRES", errno));
  std::string found;
  each_in(answer, [&found](void* row) {
    const auto& tres = *static_cast<slurmdb_tres_rec_t*>(row);
    if (copy(tres.type) == "gres" && copy(tres.name) == "gpu") found = std::to_string(tres.id);
  });
  slurm_list_destroy(answer);
  if (!found.empty()) return found;
  return tl::unexpected(Error{"slurmdbd does not count GPUs: set AccountingStorageTRES=gres/gpu in "
                              "slurm.conf and restart slurmctld"});
}

}  // namespace scheduler
