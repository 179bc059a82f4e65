-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- The submit plug-in with a stand-in for Slurm's table: what it makes of jobs, and what it refuses.
-- Run by job_submit_test, which has set FOLDER to that of trainyard.lua.
local told = {}
slurm = {
  SUCCESS = 0,
  ERROR = -1,
  ESLURM_ACCESS_DENIED = 2002,
  log_user = function(text, ...) told[#told + 1] = text:format(...) end,
  log_info = function() end,
}
local trainyard = dofile(FOLDER .. "/trainyard.lua")
local partitions = { metered = { flag_default = 1 }, free = { flag_default = 0 } }
local with_gate = { partitions = { metered = true }, trusted_uids = { [64030] = true },
                    start_gate = true }
local without_gate = { partitions = { metered = true }, trusted_uids = { [64030] = true } }

local function submitted(settings, job)
  job.priority = job.priority or 4294967294
  job.requeue = job.requeue or 65534
  return trainyard.submit(settings, job, partitions), job
end
local function modified(settings, change, job)
  change.priority = change.priority or 4294967294
  change.time_limit = change.time_limit or 4294967294
  change.requeue = change.requeue or 65534
  return trainyard.modify(settings, change, job, partitions, change.uid or 1000)
end
local stamped = { admin_comment = "trainyard-job:0123456789abcdef:", time_limit = 60, job_id = 7 }

local claims = {
  ["a job of the partition is stamped and held"] = function()
    local status, job = submitted(with_gate, { partition = "metered" })
    assert(status == slurm.SUCCESS and job.priority == 0)
    assert(job.admin_comment:match("^trainyard%-job:%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x:$"))
  end,
  ["so is one that names no partition, where it is the default, and one of several"] = function()
    for _, partition in ipairs({ "", "free,metered" }) do
      local _, job = submitted(with_gate, { partition = partition })
      assert(job.admin_comment ~= nil, partition)
    end
  end,
  ["other partitions are left alone"] = function()
    local status, job = submitted(without_gate, { partition = "free", requeue = 1 })
    assert(status == slurm.SUCCESS and job.admin_comment == nil and job.requeue == 1)
  end,
  ["without a start gate no job is ever requeued, and who asks for it is told"] = function()
    told = {}
    local status, job = submitted(without_gate, { partition = "metered" })
    assert(status == slurm.SUCCESS and job.requeue == 0 and #told == 0)
    status, job = submitted(without_gate, { partition = "metered", requeue = 1 })
    assert(status == slurm.SUCCESS and job.requeue == 0)
    assert(told[1]:find("--requeue has no effect on partition metered", 1, true), told[1])
  end,
  ["with it a job is requeued as its user and Slurm say"] = function()
    for _, wish in ipairs({ 0, 1, 65534 }) do
      local _, job = submitted(with_gate, { partition = "metered", requeue = wish })
      assert(job.requeue == wish)
    end
  end,
  ["what was quoted stays, and so does whether it is requeued"] = function()
    for _, settings in ipairs({ with_gate, without_gate }) do
      for _, change in ipairs({ { requeue = 1 }, { requeue = 0 }, { priority = 4294967295 },
                                { time_limit = 61 }, { comment = "x" }, { account = "b" },
                                { time_limit = 254 }, { time_limit = 255 }, { time_limit = 65534 },
                                { time_limit = 4294967295 }, { sockets_per_node = 2 },
                                { tres_per_node = "gres:gpu:2" }, { min_nodes = 2 },
                                { min_nodes = 255 }, { num_tasks = 65534 } }) do
        assert(modified(settings, change, stamped) == slurm.ESLURM_ACCESS_DENIED, next(change))
      end
      assert(modified(settings, { time_limit = 59 }, stamped) == slurm.SUCCESS)
      assert(modified(settings, {}, stamped) == slurm.SUCCESS)
      local unset = { min_cpus = 4294967294, max_cpus = 4294967294, cpus_per_task = 65534,
                      min_nodes = 4294967294, max_nodes = 4294967294, num_tasks = 4294967294,
                      ntasks_per_node = 65534, sockets_per_node = 65534, shared = 65534 }
      assert(modified(settings, unset, stamped) == slurm.SUCCESS)
      local long = { admin_comment = stamped.admin_comment, time_limit = 65534, job_id = 8 }
      assert(modified(settings, { time_limit = 255 }, long) == slurm.SUCCESS)
    end
  end,
  ["of a training on another partition, too, but its owner may hold it and leave nodes out"] = function()
    local training = { comment = "trainyard:0123456789:0", time_limit = 60, job_id = 9 }
    for _, change in ipairs({ { time_limit = 61 }, { comment = "" }, { comment = "x" }, { min_nodes = 2 },
                              { tres_per_node = "gres:gpu:2" }, { partition = "free" }, { min_cpus = 9 },
                              { cpus_per_task = 9 }, { requeue = 1 } }) do
      assert(modified(with_gate, change, training) == slurm.ESLURM_ACCESS_DENIED, next(change))
      assert(modified(with_gate, change, { comment = "fund=user:ada", time_limit = 60, job_id = 9 })
             == slurm.SUCCESS, next(change))
    end
    for _, change in ipairs({ { time_limit = 59 }, { priority = 0 }, { exc_nodes = "n1" }, {} }) do
      assert(modified(with_gate, change, training) == slurm.SUCCESS, next(change))
    end
  end,
  ["root and the service may change all of it"] = function()
    assert(modified(without_gate, { requeue = 1, uid = 0 }, stamped) == slurm.SUCCESS)
    assert(modified(without_gate, { priority = 0, uid = 64030 }, stamped) == slurm.SUCCESS)
  end,
  ["nobody moves a job to the partition later"] = function()
    local plain = { time_limit = 60, job_id = 8 }
    assert(modified(with_gate, { partition = "metered" }, plain) == slurm.ESLURM_ACCESS_DENIED)
    assert(modified(with_gate, { partition = "free" }, plain) == slurm.SUCCESS)
  end,
  ["the fund comes from --fund, and nonsense is refused"] = function()
    local _, job = submitted(with_gate, { partition = "metered",
      spank_job_env = { "SPANK_TRAINYARD_FUND=group:vision" } })
    assert(job.admin_comment:find(":group:vision$"), job.admin_comment)
    _, job = submitted(with_gate, { partition = "metered",
      spank_job_env = { "SPANK_TRAINYARD_FUND=user:ada@dept" } })
    assert(job.admin_comment:find(":user:ada@dept$"), job.admin_comment)
    assert(submitted(with_gate, { partition = "metered",
      spank_job_env = { "SPANK_TRAINYARD_FUND=;drop" } }) == slurm.ERROR)
  end,
  ["a job that is submitted held is refused"] = function()
    assert(submitted(with_gate, { partition = "metered", priority = 0 }) == slurm.ERROR)
  end,
}

local names, failed = {}, 0
for name in pairs(claims) do names[#names + 1] = name end
table.sort(names)
for _, name in ipairs(names) do
  local is_right, why = pcall(claims[name])
  if not is_right then failed = failed + 1 end
  print((is_right and "ok      " or "FAILED  ") .. name .. (is_right and "" or ": " .. tostring(why)))
end
assert(#names > 0 and failed == 0, failed .. " of " .. #names .. " failed")
