-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- What Slurm's controller must do so that nothing unfunded starts on a managed partition. Loaded by
-- job_submit.lua. It asks nobody and waits for nothing, for slurmctld stands still meanwhile: it
-- stamps a job, holds it, and refuses what users must not change. The money is trainyardd's affair,
-- which releases the job once its hours are set aside.
--
-- The stamp is the job's admin_comment, which users cannot write:
--   trainyard-job:ID:FUND     FUND is what --fund asked for, or empty
-- Slurm gives a job id twice when its controller crashes; an ID is never given twice.
local trainyard = {}

local STAMP = "trainyard-job:"
local RUN_COMMENT = "trainyard:"

local function starts_with(text, prefix)
  return text ~= nil and text:sub(1, #prefix) == prefix
end

-- A new id: 16 hexadecimal digits of the kernel's random numbers.
local function new_id()
  local file = io.open("/proc/sys/kernel/random/uuid", "r")
  if file == nil then return nil end
  local uuid = file:read("*l")
  file:close()
  return (uuid:gsub("-", "")):sub(1, 16)
end

local function default_partition(part_list)
  for name, partition in pairs(part_list or {}) do
    if partition.flag_default == 1 then return name end
  end
  return ""
end

-- Is one of the partitions of "a,b" managed?
local function is_managed(settings, partitions)
  for name in partitions:gmatch("[^,]+") do
    if settings.partitions[name] then return true end
  end
  return false
end

-- What `--fund` of the SPANK plug-in left: "SPANK_TRAINYARD_FUND=group:vision".
local function fund_of(job_desc)
  local found = ""
  local variables = job_desc.spank_job_env
  if type(variables) ~= "table" then return found end
  for key, value in pairs(variables) do
    local text = type(key) == "string" and (key .. "=" .. tostring(value)) or tostring(value)
    local fund = text:match("TRAINYARD_FUND=(.*)$")
    if fund ~= nil then found = fund end
  end
  return found
end

function trainyard.submit(settings, job_desc, part_list)
  local partitions = job_desc.partition
  if partitions == nil or partitions == "" then partitions = default_partition(part_list) end
  if not is_managed(settings, partitions) then return slurm.SUCCESS end
  if job_desc.priority == 0 then
    slurm.log_user("trainyard: a job that is submitted held could not be told from one that waits "
      .. "for its hours. Leave --hold out; --begin and --dependency make a job wait.")
    return slurm.ERROR
  end
  local fund = fund_of(job_desc)
  if fund ~= "" and not fund:match("^%l+:[%w._@+-]+$") then
    slurm.log_user("trainyard: --fund=%s is neither user:NAME nor group:NAME (letters, digits and ._@+-).", fund)
    return slurm.ERROR
  end
  local id = new_id()
  if id == nil then
    slurm.log_user("trainyard: the controller has no random numbers; the job is refused.")
    return slurm.ERROR
  end
  job_desc.admin_comment = STAMP .. id .. ":" .. fund
  job_desc.priority = 0
  if not settings.start_gate then
    -- A job that its owner requeues starts again by itself, and without the gate nobody would ask
    -- whether it is paid for while trainyardd is away. So Slurm is told to requeue none of them.
    if job_desc.requeue == 1 then
      slurm.log_user("trainyard: --requeue has no effect on partition %s: this site has no start "
        .. "gate.", partitions)
    end
    job_desc.requeue = 0
  end
  return slurm.SUCCESS
end

-- slurm.h's NO_VAL and NO_VAL16: each field of its own width, or 65534 minutes would count as none.
local UNSET_32, UNSET_16 = 4294967294, 65534

local function is_set(value, unset)
  return type(value) == "number" and value ~= unset
end

-- The first change of what was quoted, in words; nil: none.
local function quoted_change(job_desc, job_rec)
  for _, key in ipairs({ "partition", "account", "gres", "tres_per_job", "tres_per_node",
                         "tres_per_socket", "tres_per_task", "comment" }) do
    local value = job_desc[key]
    if value ~= nil and value ~= "" then return key end
  end
  for _, key in ipairs({ "min_nodes", "max_nodes", "num_tasks", "min_cpus", "max_cpus" }) do
    if is_set(job_desc[key], UNSET_32) then return key end
  end
  for _, key in ipairs({ "ntasks_per_node", "ntasks_per_gpu", "cpus_per_task", "sockets_per_node",
                         "shared", "requeue" }) do
    if is_set(job_desc[key], UNSET_16) then return key end
  end
  if is_set(job_desc.time_limit, UNSET_32) then
    local now = job_rec.time_limit
    if not is_set(now, UNSET_32) or job_desc.time_limit > now then return "a longer time limit" end
  end
  return nil
end

-- The first change to a stamped job that its user must not make, in words; nil: none.
local function forbidden_change(job_desc, job_rec)
  if is_set(job_desc.priority, UNSET_32) then return "holding, releasing or its priority" end
  return quoted_change(job_desc, job_rec)
end

function trainyard.modify(settings, job_desc, job_rec, part_list, uid)
  if uid == 0 or settings.trusted_uids[uid] then return slurm.SUCCESS end
  local stamped = starts_with(job_rec.admin_comment, STAMP)
  local change
  if stamped then
    change = forbidden_change(job_desc, job_rec)
  elseif job_desc.partition ~= nil and is_managed(settings, job_desc.partition) then
    change = "moving it to a managed partition"
  elseif starts_with(job_rec.comment, RUN_COMMENT) then
    -- A training on a partition that is not managed: its owner may hold it, but what is held for it is
    -- for what was quoted, also while trainyardd is away.
    change = job_desc.comment ~= nil and "comment" or quoted_change(job_desc, job_rec)
  end
  if change == nil then return slurm.SUCCESS end
  slurm.log_info("trainyard: uid %d may not change job %s (%s): cancel it and submit again",
    uid, tostring(job_rec.job_id), change)
  return slurm.ESLURM_ACCESS_DENIED or slurm.ERROR
end

return trainyard
