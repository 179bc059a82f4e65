# SPDX-License-Identifier: GPL-3.0-or-later
#
# awk -F'|' -f fortnight.awk file=1 NOTES file=2 BOOKS file=3 SLURM: the comparison of
# tests/slurm/fortnight. NOTES are the lines of the audit; the others are what its read_books and read_slurm print. Exits with 1 where a
# difference is named by no note.
function part_of(c, start, end) { # is charge c a part of the allocation?
  return c_start[c] == start || (c_start[c] < end && c_end[c] > start)
}
# 2026-11-24T08:00:00Z in seconds; mktime takes local time, and is not in every awk.
function instant(text,    year, month, days) {
  year = substr(text, 1, 4) + 0; month = substr(text, 6, 2) + 0
  if (month <= 2) { year -= 1; month += 12 }
  days = 365 * year + int(year / 4) - int(year / 100) + int(year / 400) + int((153 * (month - 3) + 2) / 5)
  days += substr(text, 9, 2) - 719469
  return days * 86400 + substr(text, 12, 2) * 3600 + substr(text, 15, 2) * 60 + substr(text, 18, 2)
}
function number_after(text, word) { return substr(text, index(text, word) + length(word)) + 0 }
# The last instant after the word, as a name of a job before it may hold anything; "": none.
function instant_after(text, word,    at, found) {
  found = ""
  while ((at = index(text, word)) > 0) {
    text = substr(text, at + length(word))
    if (text ~ utc) found = instant(text)
  }
  return found
}

# "[TIME ]SUBJECT: TEXT" (scheduler/reconcile.cpp). One that names no job explains nothing.
function read_note(line,    subject, text) {
  note[++notes] = line
  if (line ~ utc) sub(/^[^ ]* /, "", line)
  if (line !~ /^run [^ :]+( \(job [0-9]+\))?: / && line !~ /^job [0-9]+ of uid [0-9]+: /) return
  subject = substr(line, 1, index(line, ": ") - 1)
  text = substr(line, index(line, ": ") + 2)
  n_run[notes] = subject ~ /^run / ? substr(subject, 5) : ""
  sub(/ .*/, "", n_run[notes])
  if (subject ~ /job [0-9]/) n_job[notes] = number_after(subject, "job ")
  else if (match(text, /job [0-9]+/)) n_job[notes] = substr(text, RSTART + 4, RLENGTH - 4)
  if (text ~ /^ran on partition /) sub(/ and no hold: .*/, "", text) # Why tells of other instants.
  n_text[notes] = text
  n_from[notes] = instant_after(text, " from ")
  n_to[notes] = instant_after(text, " to ")
  if (text ~ / running since /) n_from[notes] = instant_after(text, " since ")
  if (text ~ / makes no sense /) n_from[notes] = number_after(text, " from ")
  n_uses[notes] = 1
  if (text ~ /started [0-9]+ times/) {
    n_uses[notes] = number_after(text, "started ") - number_after(text, "more than ")
  }
}

# Does note i tell of this difference of the allocation? One that names a start: of one inside it, and
# of its seconds where it tells of both records'. One that names none: of what it says only, and once. That
# the audit found the same difference is no reason for it.
function explains(i, is_left, start, end, gpus, charged, recorded,    text, told) {
  text = n_text[i]
  if (text ~ /^attempt [0-9]+ is charged with / || text ~ /which nobody is charged$/) return 0
  if (text ~ / running since /) {
    if (end < endless) return 0
  } else if (is_left) {
    return 0
  }
  if (n_from[i] != "") {
    if (n_from[i] != start && (n_from[i] < start || n_from[i] >= end)) return 0
    if (text ~ / GPU-s are charged, /) {
      return number_after(text, " on: ") == charged && number_after(text, "slurmdbd has ") == recorded
    }
    if (text ~ / ends at /) return (instant_after(text, " ends at ") - n_from[i]) * gpus == charged
    if (text ~ / are charged as seen /) {
      told = text; sub(/^job [0-9]+: /, "", told)
      return posted[n_job[i], n_from[i], n_to[i]] == (told + 0) * (n_to[i] - n_from[i])
    }
    if (text ~ /^ran on partition /) return charged == 0 && number_after(text, " with ") == gpus
    if (text ~ /Nobody pays|know nothing of it|no run of the books/) return charged < recorded
    return 1
  }
  if (n_uses[i] < 1) return 0
  if (text ~ /^attempt .* grew to /) {
    return number_after(text, "ended after ") * gpus == charged &&
           number_after(text, "grew to ") * gpus == recorded
  }
  if (text ~ /no record of attempt /) return recorded == 0
  if (charged > 0) return 0
  return text ~ /started [0-9]+ times|nobody pays$/
}
# Those that are said once come last, but for growth: by its seconds it is known best.
function note_about(job, run, is_left, start, end, gpus, charged, recorded,    i, best) {
  best = 0
  for (i = 1; i <= notes; ++i) {
    if (n_job[i] != job || (run != "" && n_run[i] != "" && n_run[i] != run)) continue
    if (!explains(i, is_left, start, end, gpus, charged, recorded)) continue
    if (n_text[i] ~ / grew to /) { best = i; break }
    if (!best || (n_from[best] == "" && n_from[i] != "")) best = i
  }
  if (best && n_from[best] == "") --n_uses[best]
  return best
}
# charged, recorded: GPU-seconds. is_left: it is its state that differs.
function differ(text, job, run, is_left, start, end, gpus, charged, recorded,    why) {
  why = note_about(job, run, is_left, start, end, gpus, charged, recorded)
  if (!why) { unexplain(text); return }
  ++explained
  detail[++details] = "  explained: " text "\n    " note[why]
  if (n_text[why] ~ / grew to /) grown += recorded - charged
}
function unexplain(text) {
  ++unexplained
  detail[++details] = "  UNEXPLAINED: " text
}
BEGIN {
  endless = 1e15
  utc = "^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]Z"
}
file == 1 { read_note($0) }

file == 2 && $1 == "refund" { refunded += $8; ++refunds; by_user_refunded[$10] += $8 }
file == 2 && $1 == "charge" {
  ++charges
  of_job[$2] = of_job[$2] " " charges
  c_job[charges] = $2; c_start[charges] = $3; c_end[charges] = $4
  c_gpu_s[charges] = $5 * $6; c_run[charges] = $9
  posted[$2, $3, $4] = $5 * $6
  if ($5 * $6 * $7 != $8) {
    unexplain("charge of job " $2 ": " $5 " GPU x " $6 " s x " $7 " is not " $8 " mGPUs")
  }
  charged += $5 * $6
  by_user_charged[$10] += $5 * $6
}

file == 3 {
  users[$7] = 1
  jobs[$7, $1] = 1
  end = $3 ~ /^[0-9]+$/ ? $3 : endless
  if ($6 ~ /^(RUNNING|SUSPENDED|PENDING)/) {
    differ("job " $1 " is " $6 " in sacct, though none is left", $1, "", 1, $2, end, $4, 0, $4 * $5)
  }
  if ($4 == 0) next
  ++allocations
  ++by_user_allocations[$7]
  recorded += $4 * $5
  by_user_recorded[$7] += $4 * $5
  states[$6] += 1
  n = split(of_job[$1], own, " ")
  sum = 0; run = ""
  for (i = 1; i <= n; ++i) {
    if (!part_of(own[i], $2, end) || taken[own[i]]) continue
    taken[own[i]] = 1
    sum += c_gpu_s[own[i]]
    run = c_run[own[i]]
  }
  if (sum != $4 * $5) {
    differ(sprintf("job %s from %s on (%s): sacct has %d GPU-s, charged are %d", $1, $2, $6, $4 * $5,
                   sum), $1, run, 0, $2, end, $4, sum, $4 * $5)
  }
}

END {
  for (c = 1; c <= charges; ++c) {
    if (taken[c] || c_gpu_s[c] == 0) continue
    differ(sprintf("job %s from %s on: charged are %d GPU-s, sacct has nothing", c_job[c], c_start[c],
                   c_gpu_s[c]), c_job[c], c_run[c], 0, c_start[c], c_end[c], 0, c_gpu_s[c], 0)
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
  printf "  sacct minus charged: %d GPU-s, of which %d are grown records and %d are not; ",
         recorded - charged, grown, recorded - charged - grown
  printf "differences explained: %d, unexplained: %d; refunds by policy: %d\n", explained, unexplained, refunds
  exit unexplained > 0 || allocations == 0
}
