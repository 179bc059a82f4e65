# SPDX-License-Identifier: GPL-3.0-or-later
#
# awk -F'|' -f fortnight.awk file=1 NOTES file=2 BOOKS file=3 SLURM: the comparison of
# tests/slurm/fortnight. NOTES are the lines of the audit; the others are what its read_books and read_slurm print. Exits with 1 where a
# difference is named by no note.
function part_of(c, start, end) { # is charge c a part of the allocation?
  return c_start[c] == start || (c_start[c] < end && c_end[c] > start)
}
# Does the note tell of `gpu_s` on `gpus`, where it tells of seconds at all?
function is_right(why, gpus, gpu_s,    said, grown) {
  if (gpu_s == "" || why !~ /after [0-9]+ s .* grew to [0-9]+ s/) return 1
  said = why; sub(/.*after /, "", said)
  grown = why; sub(/.* grew to /, "", grown)
  return (grown - said) * gpus == gpu_s
}
# A job that was requeued again and again has a note for each time.
function note_about(job, run, gpus, gpu_s,    i) {
  for (i = 1; i <= notes; ++i) {
    if (note[i] !~ "job " job "([^0-9]|$)" && !(run != "" && index(note[i], "run " run))) continue
    if (is_right(note[i], gpus, gpu_s)) return note[i]
  }
  return ""
}
# gpu_s: by so much sacct has more, on so many gpus.
function differ(text, job, run, gpus, gpu_s,    why) {
  why = note_about(job, run, gpus, gpu_s)
  if (why != "") {
    ++explained
    detail[++details] = "  explained: " text "\n    " why
  } else {
    ++unexplained
    detail[++details] = "  UNEXPLAINED: " text
  }
}
file == 1 { note[++notes] = $0 }

file == 2 && $1 == "refund" { refunded += $8; ++refunds; by_user_refunded[$10] += $8 }
file == 2 && $1 == "charge" {
  ++charges
  of_job[$2] = of_job[$2] " " charges
  c_job[charges] = $2; c_start[charges] = $3; c_end[charges] = $4
  c_gpu_s[charges] = $5 * $6; c_run[charges] = $9
  if ($5 * $6 * $7 != $8) {
    differ("charge of job " $2 ": " $5 " GPU x " $6 " s x " $7 " is not " $8 " mGPUs", $2, $9)
  }
  charged += $5 * $6
  by_user_charged[$10] += $5 * $6
}

file == 3 {
  users[$7] = 1
  jobs[$7, $1] = 1
  if ($6 ~ /^(RUNNING|SUSPENDED|PENDING)/) differ("job " $1 " is " $6 " in sacct, though none is left", $1, "")
  if ($4 == 0) next
  ++allocations
  ++by_user_allocations[$7]
  recorded += $4 * $5
  by_user_recorded[$7] += $4 * $5
  states[$6] += 1
  n = split(of_job[$1], own, " ")
  sum = 0; run = ""
  for (i = 1; i <= n; ++i) {
    if (!part_of(own[i], $2, $3) || taken[own[i]]) continue
    taken[own[i]] = 1
    sum += c_gpu_s[own[i]]
    run = c_run[own[i]]
  }
  if (sum != $4 * $5) {
    difference += $4 * $5 - sum
    differ(sprintf("job %s from %s on (%s): sacct has %d GPU-s, charged are %d", $1, $2, $6, $4 * $5,
                   sum), $1, run, $4, $4 * $5 - sum)
  }
}

END {
  for (c = 1; c <= charges; ++c) {
    if (taken[c] || c_gpu_s[c] == 0) continue
    difference -= c_gpu_s[c]
    differ(sprintf("job %s from %s on: charged are %d GPU-s, sacct has nothing", c_job[c], c_start[c],
                   c_gpu_s[c]), c_job[c], c_run[c])
  }
  for (key in jobs) { split(key, word, SUBSEP); ++by_user_jobs[word[1]]; ++all_jobs }
  printf "  %-12s %6s %12s %14s %16s %16s\n", "user", "jobs", "allocations", "sacct GPU-s",
         "charged GPU-s", "refunded GPU-s"
  for (user in users) {
    printf "  %-12s %6d %12d %14d %16d %16.3f\n", user, by_user_jobs[user], by_user_allocations[user],
           by_user_recorded[user], by_user_charged[user], by_user_refunded[user] / 1000
  }
  printf "  %-12s %6d %12d %14d %16d %16.3f\n", "all", all_jobs, allocations, recorded, charged,
         refunded / 1000
  line = ""
  for (state in states) line = line " " states[state] " " state
  print "  allocations that ended as:" line
  for (i = 1; i <= details; ++i) print detail[i]
  printf "  sacct minus charged: %d GPU-s; differences explained: %d, unexplained: %d; refunds by policy: %d\n",
         difference, explained, unexplained, refunds
  exit unexplained > 0 || allocations == 0
}
