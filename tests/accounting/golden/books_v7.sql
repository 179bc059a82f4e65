-- SPDX-License-Identifier: GPL-3.0-or-later
-- Books of version 7 of the schema, as `sqlite3 .dump` wrote them.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE ledger_meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT;
INSERT INTO ledger_meta VALUES('schema_version','7');
INSERT INTO ledger_meta VALUES('till_version','1');
CREATE TABLE account (
  name    TEXT PRIMARY KEY,                -- treasury, fund:user:ada, held:user:ada, usage:CLUSTER
  kind    TEXT NOT NULL,                   -- treasury, fund, held, usage
  fund    TEXT,                            -- Of a fund and a held account: user:ada.
  unit    TEXT NOT NULL DEFAULT 'mGPUs',   -- Units never mix: a wallet in currency has its own.
  floor   INTEGER,                         -- Null: none. 0: never below zero. -N: credit of N.
  balance INTEGER NOT NULL DEFAULT 0,
  CHECK (floor IS NULL OR balance >= floor),
  CHECK ((kind IN ('fund', 'held')) = (fund IS NOT NULL))
) STRICT;
INSERT INTO account VALUES('treasury','treasury',NULL,'mGPUs',NULL,-568800000);
INSERT INTO account VALUES('fund:group:vision','fund','group:vision','mGPUs',0,338400000);
INSERT INTO account VALUES('held:group:vision','held','group:vision','mGPUs',0,0);
INSERT INTO account VALUES('fund:user:ada','fund','user:ada','mGPUs',-3600000,0);
INSERT INTO account VALUES('held:user:ada','held','user:ada','mGPUs',0,108000000);
INSERT INTO account VALUES('usage:alpha','usage',NULL,'mGPUs',0,57600000);
INSERT INTO account VALUES('debt:user:ada','debt',NULL,'mGPUs',NULL,0);
INSERT INTO account VALUES('later:user:ada','later',NULL,'mGPUs',0,0);
INSERT INTO account VALUES('later:group:vision','later',NULL,'mGPUs',0,25200000);
INSERT INTO account VALUES('expired:user:ada','expired',NULL,'mGPUs',0,3600000);
INSERT INTO account VALUES('fund:group:owing','fund','group:owing','mGPUs',0,36000000);
INSERT INTO account VALUES('held:group:owing','held','group:owing','mGPUs',0,0);
INSERT INTO account VALUES('debt:group:owing','debt',NULL,'mGPUs',NULL,0);
CREATE TABLE transfer (
  seq          INTEGER PRIMARY KEY,
  id           TEXT NOT NULL UNIQUE,
  kind         TEXT NOT NULL,              -- grant, hold, charge, release
  debit        TEXT NOT NULL REFERENCES account (name),
  credit       TEXT NOT NULL REFERENCES account (name),
  amount       INTEGER NOT NULL CHECK (amount >= 0),
  hold_id      TEXT,                       -- Of a charge or a release: the hold it draws on.
  run          TEXT NOT NULL,
  gpus         INTEGER NOT NULL,           -- gpus x seconds x weight_milli: the arithmetic of a
  seconds      INTEGER NOT NULL,           --   charge, 0 in every other kind.
  weight_milli INTEGER NOT NULL,
  start_s      INTEGER NOT NULL,           -- UTC seconds, as Slurm recorded the allocation.
  end_s        INTEGER NOT NULL,
  actor        TEXT NOT NULL,
  note         TEXT NOT NULL,
  content_hash TEXT NOT NULL,              -- Of the request: tells a retry from another request.
  ts_us        INTEGER NOT NULL,           -- The ledger's time, UTC microseconds, ever increasing.
  prev_hash    TEXT NOT NULL,
  hash         TEXT NOT NULL, ref TEXT, value TEXT, debit_after INTEGER NOT NULL DEFAULT 0, credit_after INTEGER NOT NULL DEFAULT 0,
  CHECK (debit <> credit),
  CHECK (kind NOT IN ('charge', 'release') OR hold_id IS NOT NULL)
) STRICT;
INSERT INTO transfer VALUES(1,'g1','grant','treasury','fund:group:vision',360000000,NULL,'',0,0,0,0,0,'root','term 2026','b9590a22dcbd8f4ae72aca26a59b00cbaac6c07e9a0cd3769b1db27c25c18624',1795507200000000,'0000000000000000000000000000000000000000000000000000000000000000','d96249aca35e29d642261f54da34f9d4b2d57c25b18c305636a3f1fe4f121a7d',NULL,NULL,-360000000,360000000);
INSERT INTO transfer VALUES(2,'g2','grant','treasury','fund:user:ada',18000000,NULL,'',0,0,0,0,0,'root','','fd30991563678642190b2dc290fdef7a73a48103336f9e072d2431c75008f43f',1795507200000001,'d96249aca35e29d642261f54da34f9d4b2d57c25b18c305636a3f1fe4f121a7d','84996c8f676d3c01583e84c77cf9edb0780d6786a7427cd4b25a51ff646167ab',NULL,NULL,-378000000,18000000);
INSERT INTO transfer VALUES(3,'s1','set','treasury','fund:user:ada',0,NULL,'',0,0,0,0,0,'root','','c97585a15daf4a87cbf5cd97170edf4b33829a481c5af194b893073afbd008ad',1795507200000002,'84996c8f676d3c01583e84c77cf9edb0780d6786a7427cd4b25a51ff646167ab','e701a3e11a78ce3424473ee2172601d60ef6ea4c2d2087dbe37ed2fb661e5e34','credit_limit','3600000',-378000000,18000000);
INSERT INTO transfer VALUES(4,'s2','set','treasury','fund:group:vision',0,NULL,'',0,0,0,1795507200,0,'root','half','2004d6acb3b2a14ef0d67a2f6188b9567d1ce1791cea7cff00e1e3917f2c95fb',1795507200000003,'e701a3e11a78ce3424473ee2172601d60ef6ea4c2d2087dbe37ed2fb661e5e34','c68ddd3e2393eeb6d2510d189986a7e4722a4d327fbbc103bb5a9a93efed0244','cap/ada','180000000',-378000000,360000000);
INSERT INTO transfer VALUES(5,'s3','set','treasury','fund:group:vision',0,NULL,'',0,0,0,0,0,'root','','6c14736ce31a8525c80b353bbd5214ea2acb000034d68fe8b0ac298f9be71c46',1795507200000004,'c68ddd3e2393eeb6d2510d189986a7e4722a4d327fbbc103bb5a9a93efed0244','3d8657166692c470a1b80f200295f3d51da27ae845d9db3248c747add0816f67','gpus_max','16',-378000000,360000000);
INSERT INTO transfer VALUES(6,'s4','set','treasury','fund:group:vision',0,NULL,'',0,0,0,0,0,'root','','14b9fd13eaf07d0947d1dbcabe52f4bde8e329ac5aa84b9a630f63fdd22260ae',1795507200000005,'3d8657166692c470a1b80f200295f3d51da27ae845d9db3248c747add0816f67','2ef4c8b2390511d06729617d0baec7231fefc409dfd1e85f8556f27a684c6b3a','gpus_max',NULL,-378000000,360000000);
INSERT INTO transfer VALUES(7,'r1/0','hold','fund:group:vision','held:group:vision',36000000,NULL,'r1',8,0,0,0,0,'ada','','a2f21ab995588c849e746b9d0fe60900319ebdef99ae1a984221e4786ac03cca',1795507200000006,'2ef4c8b2390511d06729617d0baec7231fefc409dfd1e85f8556f27a684c6b3a','5dad326261e281d3ab81dba1a8c7b0d54c591772255c2e1460a050b6cd174847',NULL,NULL,324000000,36000000);
INSERT INTO transfer VALUES(8,'r1/0+0','extend','fund:group:vision','held:group:vision',18000000,'r1/0','r1',0,0,0,0,0,'ada','','9b778d59d6d0779040fa92b3e2d49307d6d0f86e3ad33d260ad1dca4eebba0b4',1795507200000007,'5dad326261e281d3ab81dba1a8c7b0d54c591772255c2e1460a050b6cd174847','a5ad21f730d36c29b2b955a5f303dc8024947bb16b08f8d7118b502c5b09ae57',NULL,NULL,306000000,54000000);
INSERT INTO transfer VALUES(9,'r1/0-0','reduce','held:group:vision','fund:group:vision',7200000,'r1/0','r1',0,0,0,0,0,'ada','','7495256d56eb88075832704e2e28e2249f96e53e5d63ec18e850c8b4a592e6b4',1795507200000008,'a5ad21f730d36c29b2b955a5f303dc8024947bb16b08f8d7118b502c5b09ae57','47990648e3345bd4943d3191d68c1e8b747fe5e82fceb1b53f9dace1f68dd2a3',NULL,NULL,46800000,313200000);
INSERT INTO transfer VALUES(10,'alpha/r1/0/0','charge','held:group:vision','usage:alpha',28800000,'r1/0','r1',8,3600,1000,1795507200,1795510800,'','h100 COMPLETED','eeb7bca80511b5216601ad12e70b2c56e7e0c35ae27a30d07f21cf490e8df5e8',1795510800000000,'47990648e3345bd4943d3191d68c1e8b747fe5e82fceb1b53f9dace1f68dd2a3','08a73017aa5275ae10575de0d3284f0b4c9dbba8bdde90c9f8fcbf2e796b0f19',NULL,NULL,18000000,28800000);
INSERT INTO transfer VALUES(11,'r1/0/release','release','held:group:vision','fund:group:vision',18000000,'r1/0','r1',0,0,0,0,0,'','finished','fecbc2437ce2f5b755a565c4ab7b188eb20a89db0478cdfa55723309f51a3087',1795511200000000,'08a73017aa5275ae10575de0d3284f0b4c9dbba8bdde90c9f8fcbf2e796b0f19','b9db943053d1abde7669df93dfd73461521ccbdf2a3c54bb8739c776984a9721',NULL,NULL,0,331200000);
INSERT INTO transfer VALUES(12,'alpha/r1/0/0/node','refund','usage:alpha','fund:group:vision',7200000,NULL,'r1',0,0,0,0,0,'root','gpu02 lost its link','da845197fb3fb98d17db02886ab2382b808516276f49095b87a4dc9b9803d1ef',1795511200000001,'b9db943053d1abde7669df93dfd73461521ccbdf2a3c54bb8739c776984a9721','34feb8b3595d878253b5d5baa39c70c3604304f43a5b888297bc727ad60fabad','alpha/r1/0/0',NULL,21600000,338400000);
INSERT INTO transfer VALUES(13,'r2/0','hold','fund:user:ada','held:user:ada',10800000,NULL,'r2',1,0,0,0,0,'ada','','fe00a9a5da2c422a5c80db922dd4b361b212b05deb2f1d656cac2491885b50a1',1795511200000002,'34feb8b3595d878253b5d5baa39c70c3604304f43a5b888297bc727ad60fabad','aaed8ad7175ace9958701ee96a5271a70efc32c83b250474ca32cabb7ac0a665',NULL,NULL,7200000,10800000);
INSERT INTO transfer VALUES(14,'alpha/r2/0/0','charge','held:user:ada','usage:alpha',10800000,'r2/0','r2',1,36000,1000,1795511200,1795547200,'','h100 COMPLETED','e59176bd8b7df933cb97dce0ff645bd4114de3b1d6f3af9397b2b03895450089',1795547200000000,'aaed8ad7175ace9958701ee96a5271a70efc32c83b250474ca32cabb7ac0a665','8779a05d7b25f88aeaaea7f6fa5c05c090aed7ff837507f7cf2b375c54046f41',NULL,NULL,0,32400000);
INSERT INTO transfer VALUES(15,'alpha/r2/0/0/debt','debt','debt:user:ada','usage:alpha',25200000,NULL,'r2',0,0,0,0,0,'','','d33d10e2faac5e6c34ccaf77d7540e1ef4e4db66525a74f0b0e6bdc936c03ca1',1795547200000001,'8779a05d7b25f88aeaaea7f6fa5c05c090aed7ff837507f7cf2b375c54046f41','10af74847ffa0cfaedcc6f4e4262d16a1130c40c00a6dd95e5fa5aeb1a05a679','alpha/r2/0/0',NULL,-25200000,57600000);
INSERT INTO transfer VALUES(16,'alpha/r2/0/0/debt/repay','repay','fund:user:ada','debt:user:ada',7200000,NULL,'',0,0,0,0,0,'','','ea21ac91ed53ecafee18874694daf9d2df14fe4e1ff47697717833c9b3d202a2',1795547200000002,'10af74847ffa0cfaedcc6f4e4262d16a1130c40c00a6dd95e5fa5aeb1a05a679','773f78199874dae416304f89a480f266def269c40c45ed4d2642fbced373fb64',NULL,NULL,0,-18000000);
INSERT INTO transfer VALUES(17,'r2/0/release','release','held:user:ada','fund:user:ada',0,'r2/0','r2',0,0,0,0,0,'','time limit','9113c1133bc979d22ce0f7a209dea557e6bac258a0631bb9ba2570049517d218',1795551200000000,'773f78199874dae416304f89a480f266def269c40c45ed4d2642fbced373fb64','cf54379620c5c13c719b20e3944d0033419fd73d4d1fa367f7d1293d38cc2623',NULL,NULL,0,0);
INSERT INTO transfer VALUES(18,'g3','grant','treasury','fund:user:ada',72000000,NULL,'',0,0,0,0,0,'root','','a2343454f72a51e267d8f8c86c2ef7d8d0233fd6a3abac559fa201bd2841b919',1795551200000001,'cf54379620c5c13c719b20e3944d0033419fd73d4d1fa367f7d1293d38cc2623','4567afd7abe5e4d3d8988e01f23edc3b9598e6f693270c84b14f4a5f3c19ab62',NULL,NULL,-450000000,72000000);
INSERT INTO transfer VALUES(19,'g3/repay','repay','fund:user:ada','debt:user:ada',18000000,NULL,'',0,0,0,0,0,'','','634335153108e6dad24df8bf43325ebbc713d496689753de76994e49138e0830',1795551200000002,'4567afd7abe5e4d3d8988e01f23edc3b9598e6f693270c84b14f4a5f3c19ab62','6c21fdd78f4802cc461faedd2d3b827be9b621d9cf5d22d3d80aca559b42eeaa',NULL,NULL,54000000,0);
INSERT INTO transfer VALUES(20,'r3/0','hold','fund:user:ada','held:user:ada',3600000,NULL,'r3',1,0,0,1795551200,1795637600,'ada','','f889bd28c66d06d864c855cfbbf9fe43b1c5ac357da5039013ae4b4461adc4ef',1795551200000003,'6c21fdd78f4802cc461faedd2d3b827be9b621d9cf5d22d3d80aca559b42eeaa','9b8f6d960a9dd463b5a57daf28d6937602bfd961481cfb843b317192cd883c62',NULL,NULL,50400000,3600000);
INSERT INTO transfer VALUES(21,'g4','grant','treasury','fund:user:ada',14400000,NULL,'',0,0,0,0,1795552200,'root','week','0b6bf0b29560ffe8957ed5fdf6d28116e57b2dbe969423e5ec198c6729db8340',1795551200000004,'9b8f6d960a9dd463b5a57daf28d6937602bfd961481cfb843b317192cd883c62','9033b3381205f00ac48d1b08a7e1095dc3199f7310b83fb027c1e81b7c11204a',NULL,NULL,-464400000,64800000);
INSERT INTO transfer VALUES(22,'g5','grant','treasury','later:user:ada',21600000,NULL,'',0,0,0,1795551700,1796451200,'root','next','fd4f28ac35bdf1dbddce9880a1d75d86c6257557fc81698793b1a1d203e5745d',1795551200000005,'9033b3381205f00ac48d1b08a7e1095dc3199f7310b83fb027c1e81b7c11204a','12dc1c7a657fad3c470958739dba024a1bb1a8053cb0278554c40f5f7c26fd40',NULL,NULL,-486000000,21600000);
INSERT INTO transfer VALUES(23,'g6','grant','treasury','later:group:vision',25200000,NULL,'',0,0,0,1800551200,0,'root','later','46d1727b48bd6e3b99e080f572203060a3ab07d40067279abc95e076cc2160a4',1795551200000006,'12dc1c7a657fad3c470958739dba024a1bb1a8053cb0278554c40f5f7c26fd40','53fc4c5d75d9da2113660c695c669e3531dddeacfb04cbc8fbdd3a4f9c19194d',NULL,NULL,-511200000,25200000);
INSERT INTO transfer VALUES(24,'r4/0','hold','fund:user:ada','held:user:ada',10800000,NULL,'r4',1,0,0,0,0,'ada','','0a1e93540083562ecac16e78b3bbda233bc2b72bc2635cbfec6729e4205a414a',1795551200000007,'53fc4c5d75d9da2113660c695c669e3531dddeacfb04cbc8fbdd3a4f9c19194d','eac985277dffd11729b51e02a7a948f466e7b97a0d4350b5c8e5aa2ec5d3db5e',NULL,NULL,54000000,14400000);
INSERT INTO transfer VALUES(25,'g5/begin','begin','later:user:ada','fund:user:ada',21600000,NULL,'',0,0,0,0,0,'','','ac4f5d8d7c2ba2dc674abf56f5d33ab6908f1f260e0be199fe1ea8eb02413a24',1795551800000000,'eac985277dffd11729b51e02a7a948f466e7b97a0d4350b5c8e5aa2ec5d3db5e','663dcbd0dce90c142dfd78fdd56d05fc6c118deff861315cc5a96a2ea176daea','g5',NULL,0,75600000);
INSERT INTO transfer VALUES(26,'g4/expire','expire','fund:user:ada','expired:user:ada',3600000,NULL,'',0,0,0,0,0,'','','693b0e21e38549873c8334229c997d2b035072a4fc9a1a3d141883fe9ce4f526',1795552400000000,'663dcbd0dce90c142dfd78fdd56d05fc6c118deff861315cc5a96a2ea176daea','770642fa32f003b7ccc3df0bc7e995b9020f89df3043cd4112ef4f55de044f1d','g4',NULL,72000000,3600000);
INSERT INTO transfer VALUES(27,'r5/0','hold','fund:user:ada','held:user:ada',7200000,NULL,'r5',1,0,0,0,0,'ada','','014cba2d8f7ff15f3e5708d3b6d5d10bd0d1c2676dcab25cbec119ed7e7d43fb',1795552500000000,'770642fa32f003b7ccc3df0bc7e995b9020f89df3043cd4112ef4f55de044f1d','9b028fd20a4fb2885257e49dd63ee52b35db8c60ec3dec02c0f4c1dd6db61e14',NULL,NULL,64800000,21600000);
INSERT INTO transfer VALUES(28,'pay/webhook/pay_1','grant','treasury','fund:user:ada',36000000,NULL,'',0,0,0,0,0,'webhook','receipt 1: 10.00 EUR at 1.00 EUR a GPU-h, of it 8.00 EUR beyond the quote at 1.00 EUR','0fa312f7f43d7a34d9ee9b4064a181606e0acaaab340402e95349a6e26faa572',1795552500000001,'9b028fd20a4fb2885257e49dd63ee52b35db8c60ec3dec02c0f4c1dd6db61e14','1c35efaac112cf6428379d648c6549c290de56f00d7c68598ea1d7d8cc655b5b',NULL,NULL,-547200000,100800000);
INSERT INTO transfer VALUES(29,'reversal/webhook/re_1','take','fund:user:ada','treasury',14400000,NULL,'',0,0,0,0,0,'webhook','refund of 4.00 EUR of receipt 1','31044dbf4d5745eb5685ad52efd4a76c8de2a0b05d960c6cb0c6a6472b554729',1795552500000002,'1c35efaac112cf6428379d648c6549c290de56f00d7c68598ea1d7d8cc655b5b','e393e39c5446daf38e382380a833e7159609ef9a56b6a80c4419a478e22144d2','pay/webhook/pay_1',NULL,86400000,-532800000);
INSERT INTO transfer VALUES(30,'r6/0','hold','fund:user:ada','held:user:ada',86400000,NULL,'r6',1,0,0,0,0,'ada','','edc6dd931fdcd32c32a96397eaf1bccc643e519e30fc8aef940a0526dd50f5b0',1795552500000003,'e393e39c5446daf38e382380a833e7159609ef9a56b6a80c4419a478e22144d2','40ef2228f1a5a2d14fca344d16ac96b2de019c6120de1221c071ec81ab9c846a',NULL,NULL,0,108000000);
INSERT INTO transfer VALUES(31,'g/owing','grant','treasury','fund:group:owing',36000000,NULL,'',0,0,0,0,0,'root','','a2bb3417927d764ecd86873ca9e68045e79f2b2e59efbe2a16da902c97a661e0',1795600000000000,'40ef2228f1a5a2d14fca344d16ac96b2de019c6120de1221c071ec81ab9c846a','9ea9692c0d4d95c4cf0f8fd59a3cc4683f626ed3f819d4e49a662625b67bbe62',NULL,NULL,-568800000,36000000);
INSERT INTO transfer VALUES(32,'s/owing','set','treasury','fund:group:owing',0,NULL,'',0,0,0,0,0,'root','','73f4f8d8a28d5fdf7e206b949d2f1a6e698fa3a7dd82b8d7e81d82b9eadb2b27',1795600001000000,'9ea9692c0d4d95c4cf0f8fd59a3cc4683f626ed3f819d4e49a662625b67bbe62','b898198a60f1c8ff8db74c77193948957439a99acc19b442de0cbe01e58e3e27','cap/bob','18000000',-568800000,36000000);
INSERT INTO transfer VALUES(33,'owing/0','hold','fund:group:owing','held:group:owing',3600000,NULL,'owing',0,0,0,0,0,'bob','','f7ea589a14fe6100869999ba4d91eeb1e10ce2d0d4bba45b02b71fcbb2f67e1e',1795600002000000,'b898198a60f1c8ff8db74c77193948957439a99acc19b442de0cbe01e58e3e27','b6aedb205670763c16b3d10d6dbc3107dfc9509c7f263cbfda87675b65925542',NULL,NULL,32400000,3600000);
INSERT INTO transfer VALUES(34,'alpha/owing/0','charge','held:group:owing','usage:alpha',3600000,'owing/0','owing',2,3600,1000,1795507200,1795510800,'','h100 COMPLETED','2ad691edbccfa62b018fd7c17d70a048ce5fcef705668a6661d18b0906314c05',1795600003000000,'b6aedb205670763c16b3d10d6dbc3107dfc9509c7f263cbfda87675b65925542','b840766d2f2ef120299eadc3c181b112cbdf5b11252159679697a54a553ab56f',NULL,NULL,0,61200000);
INSERT INTO transfer VALUES(35,'alpha/owing/0/debt','debt','debt:group:owing','usage:alpha',3600000,NULL,'owing',0,0,0,0,0,'','','ea9b7542bab01f0549f7057bd7b05aec1460da606b3cdfed2033f7f49c61bc1b',1795600003000001,'b840766d2f2ef120299eadc3c181b112cbdf5b11252159679697a54a553ab56f','49e449cfb363cb81bec3b40bc4015418a4d151191733f38d840040ebd63aa4dd','alpha/owing/0',NULL,-3600000,64800000);
INSERT INTO transfer VALUES(36,'alpha/owing/0/debt/repay','repay','fund:group:owing','debt:group:owing',3600000,NULL,'',0,0,0,0,0,'','','c2e99d6caccc441d8c9d792c7cae188ffbf6467ca2c54a4baad3bd002c315db9',1795600003000002,'49e449cfb363cb81bec3b40bc4015418a4d151191733f38d840040ebd63aa4dd','085277345b2a94bd2a1eaf4fc2a9fae88b6bf402871976c32c08b4b6bd54b397',NULL,NULL,28800000,0);
INSERT INTO transfer VALUES(37,'alpha/owing/0/x','refund','usage:alpha','fund:group:owing',7200000,NULL,'owing',0,0,0,0,0,'root','','60b372ad7723c26994a499cf5ffd02a18b51ac43c1d49ed5ad3474513f9ad3c0',1795600004000000,'085277345b2a94bd2a1eaf4fc2a9fae88b6bf402871976c32c08b4b6bd54b397','6bd91a3ce6157a2011ab87e319b899e0cca67d42ff17a9d1e3d4edc6ec516f14','alpha/owing/0',NULL,57600000,36000000);
INSERT INTO transfer VALUES(38,'owing/0/release','release','held:group:owing','fund:group:owing',0,'owing/0','owing',0,0,0,0,0,'','done','b9eeb22b89ce15c4f01954459a95cd86ed8cc106d5e563c38bbcd8754f3887ed',1795600005000000,'6bd91a3ce6157a2011ab87e319b899e0cca67d42ff17a9d1e3d4edc6ec516f14','7dcb11ee11f55f96790f7c822ad27e01b5fab1ab7156b1a30b6bbfd3b3492420',NULL,NULL,0,36000000);
CREATE TABLE hold (
  id         TEXT PRIMARY KEY REFERENCES transfer (id),
  fund       TEXT NOT NULL,
  run        TEXT NOT NULL,
  remaining  INTEGER NOT NULL CHECK (remaining >= 0),
  closed_seq INTEGER, member TEXT NOT NULL DEFAULT '', gpus INTEGER NOT NULL DEFAULT 0, expires_s INTEGER NOT NULL DEFAULT 0,                      -- The transfer that closed it. Null: open.
  CHECK (closed_seq IS NULL OR remaining = 0)
) STRICT;
INSERT INTO hold VALUES('r1/0','group:vision','r1',0,11,'ada',8,0);
INSERT INTO hold VALUES('r2/0','user:ada','r2',0,17,'ada',1,0);
INSERT INTO hold VALUES('r3/0','user:ada','r3',3600000,NULL,'ada',1,1795637600);
INSERT INTO hold VALUES('r4/0','user:ada','r4',10800000,NULL,'ada',1,0);
INSERT INTO hold VALUES('r5/0','user:ada','r5',7200000,NULL,'ada',1,0);
INSERT INTO hold VALUES('r6/0','user:ada','r6',86400000,NULL,'ada',1,0);
INSERT INTO hold VALUES('owing/0','group:owing','owing',0,38,'bob',0,0);
CREATE TABLE finding (
  seq     INTEGER PRIMARY KEY,
  at_s    INTEGER NOT NULL,
  subject TEXT NOT NULL,
  text    TEXT NOT NULL,
  UNIQUE (subject, text)
) STRICT;
INSERT INTO finding VALUES(1,1795547200,'alpha/r2/0/0','charge alpha/r2/0/0: 1 GPU x 36000 s x 1.000 = 36000000 mGPUs exceeds the 10800000 mGPUs left of hold r2/0; the fund owes 25200000 mGPUs (7.000 GPU-h).');
INSERT INTO finding VALUES(2,1795600003,'alpha/owing/0','charge alpha/owing/0: 2 GPU x 3600 s x 1.000 = 7200000 mGPUs exceeds the 3600000 mGPUs left of hold owing/0; the fund owes 3600000 mGPUs (1.000 GPU-h).');
CREATE TABLE setting (
  fund    TEXT NOT NULL,
  name    TEXT NOT NULL,
  value   TEXT NOT NULL,
  since_s INTEGER NOT NULL,
  PRIMARY KEY (fund, name)
) STRICT;
INSERT INTO setting VALUES('user:ada','credit_limit','3600000',0);
INSERT INTO setting VALUES('group:vision','cap/ada','180000000',1795507200);
INSERT INTO setting VALUES('group:owing','cap/bob','18000000',0);
CREATE TABLE lot (
  grant_id  TEXT PRIMARY KEY REFERENCES transfer (id),
  fund      TEXT NOT NULL,
  from_s    INTEGER NOT NULL,
  expires_s INTEGER NOT NULL,               -- 0: never.
  is_active INTEGER NOT NULL,               -- 0: still in the later account.
  remaining INTEGER NOT NULL CHECK (remaining >= 0)
) STRICT;
INSERT INTO lot VALUES('g4','user:ada',0,1795552200,1,0);
INSERT INTO lot VALUES('g5','user:ada',1795551700,1796451200,1,0);
INSERT INTO lot VALUES('g6','group:vision',1800551200,0,0,25200000);
CREATE TABLE lot_draw (
  hold_id   TEXT NOT NULL REFERENCES hold (id),
  grant_id  TEXT NOT NULL REFERENCES lot (grant_id),
  remaining INTEGER NOT NULL CHECK (remaining >= 0),
  PRIMARY KEY (hold_id, grant_id)
) STRICT;
INSERT INTO lot_draw VALUES('r4/0','g4',10800000);
INSERT INTO lot_draw VALUES('r5/0','g5',7200000);
INSERT INTO lot_draw VALUES('r6/0','g5',14400000);
CREATE TABLE measured_run (
  run          TEXT PRIMARY KEY,
  model        TEXT NOT NULL,
  imgsz        INTEGER NOT NULL,
  type         TEXT NOT NULL,               -- Instance type.
  ranks        INTEGER NOT NULL,
  image_tenths INTEGER NOT NULL CHECK (image_tenths > 0),  -- 10 a training image, 4 a validation image.
  seconds      INTEGER NOT NULL CHECK (seconds > 0),       -- After start-up.
  ended_s      INTEGER NOT NULL,
  low_s        INTEGER NOT NULL,            -- The band that its plan gave for `seconds`.
  high_s       INTEGER NOT NULL
) STRICT;
INSERT INTO measured_run VALUES('r1','yolov8n',640,'h100',8,110000,3500,1795552500,3000,4000);
CREATE TABLE alert_arm (
  fund      TEXT PRIMARY KEY,
  armed_seq INTEGER NOT NULL,               -- The transfer that armed it.
  given     INTEGER NOT NULL,               -- What the fund had then: 100 %.
  level     INTEGER NOT NULL                -- The highest that was told since. 0: none.
) STRICT;
INSERT INTO alert_arm VALUES('group:vision',1,360000000,0);
INSERT INTO alert_arm VALUES('user:ada',28,144000000,100);
CREATE TABLE alert (
  number    INTEGER PRIMARY KEY,
  fund      TEXT NOT NULL,
  level     INTEGER NOT NULL,               -- 80, 95, 100
  armed_seq INTEGER NOT NULL,
  available INTEGER NOT NULL,
  given     INTEGER NOT NULL,
  at_s      INTEGER NOT NULL,
  UNIQUE (fund, level, armed_seq)
) STRICT;
INSERT INTO alert VALUES(1,'user:ada',100,30,0,144000000,1795552500);
CREATE TABLE alert_way (
  alert   INTEGER NOT NULL REFERENCES alert (number),
  channel TEXT NOT NULL,                    -- command, webhook
  state   TEXT NOT NULL,                    -- waiting, sending, sent, failed
  tries   INTEGER NOT NULL,
  next_s  INTEGER NOT NULL,
  PRIMARY KEY (alert, channel)
) STRICT;
INSERT INTO alert_way VALUES(1,'command','waiting',0,1795552500);
CREATE TABLE payment_reversal (
  provider  TEXT NOT NULL,
  reversal  TEXT NOT NULL,                  -- The provider's name of it: counts once.
  kind      TEXT NOT NULL,                  -- refund, chargeback
  reference TEXT NOT NULL,                  -- Of the payment.
  currency  TEXT NOT NULL,
  minor     INTEGER NOT NULL CHECK (minor > 0),
  actor     TEXT NOT NULL,
  at_s      INTEGER NOT NULL,
  PRIMARY KEY (provider, reversal)
) STRICT;
INSERT INTO payment_reversal VALUES('webhook','re_1','refund','pay_1','EUR',400,'webhook',1795552500);
INSERT INTO payment_reversal VALUES('webhook','re_2','chargeback','pay_2','EUR',100,'webhook',1795552500);
CREATE TABLE payment_reversed (
  provider TEXT NOT NULL,
  reversal TEXT NOT NULL,
  grant_id TEXT NOT NULL REFERENCES transfer (id),
  minor    INTEGER NOT NULL CHECK (minor >= 0),   -- Of the money: at most what the receipt had left.
  amount   INTEGER NOT NULL CHECK (amount >= 0),  -- Of the hours.
  due      INTEGER NOT NULL CHECK (due >= 0),     -- A part of amount: the fund did not have it.
  at_s     INTEGER NOT NULL,
  PRIMARY KEY (provider, reversal),
  FOREIGN KEY (provider, reversal) REFERENCES payment_reversal (provider, reversal)
) STRICT;
INSERT INTO payment_reversed VALUES('webhook','re_1','pay/webhook/pay_1',400,14400000,0,1795552500);
CREATE TABLE price (
  seq INTEGER PRIMARY KEY,
  at_s INTEGER NOT NULL,
  from_s INTEGER NOT NULL,
  currency TEXT NOT NULL,
  minor INTEGER NOT NULL CHECK (minor > 0),
  actor TEXT NOT NULL
) STRICT;
INSERT INTO price VALUES(1,1795552500,1795551500,'EUR',100,'root');
CREATE TABLE quote (
  id TEXT PRIMARY KEY,
  user TEXT NOT NULL,
  fund TEXT NOT NULL,
  type TEXT NOT NULL,
  gpus INTEGER NOT NULL,
  weight_milli INTEGER NOT NULL,
  hold INTEGER NOT NULL CHECK (hold > 0),
  expected INTEGER NOT NULL,
  currency TEXT NOT NULL,
  price_minor INTEGER NOT NULL,
  made_s INTEGER NOT NULL,
  expires_s INTEGER NOT NULL
) STRICT;
INSERT INTO quote VALUES('q1','ada','user:ada','h100',1,1000,7200000,3600000,'EUR',100,1795552500,1795638900);
CREATE TABLE quote_use (
  quote TEXT PRIMARY KEY REFERENCES quote (id),
  run TEXT NOT NULL
) STRICT;
INSERT INTO quote_use VALUES('q1','r6');
CREATE TABLE quote_content (
  quote TEXT PRIMARY KEY REFERENCES quote (id),
  content TEXT NOT NULL
) STRICT;
INSERT INTO quote_content VALUES('q1','c');
CREATE TABLE receipt (
  number INTEGER PRIMARY KEY,
  at_s INTEGER NOT NULL,
  provider TEXT NOT NULL,
  reference TEXT NOT NULL,
  fund TEXT NOT NULL,
  currency TEXT NOT NULL,
  minor INTEGER NOT NULL CHECK (minor > 0),
  quote TEXT NOT NULL,
  actor TEXT NOT NULL,
  price_minor INTEGER NOT NULL,
  amount INTEGER NOT NULL,
  grant_id TEXT NOT NULL REFERENCES transfer (id),
  UNIQUE (provider, reference)
) STRICT;
INSERT INTO receipt VALUES(1,1795552500,'webhook','pay_1','user:ada','EUR',1000,'q1','webhook',100,36000000,'pay/webhook/pay_1');
CREATE TABLE admin_act (
  seq INTEGER PRIMARY KEY,
  at_s INTEGER NOT NULL,
  actor TEXT NOT NULL,
  act TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
INSERT INTO admin_act VALUES(1,1795552500,'root','backup','/backups/books.db');
CREATE TABLE member_use (
  fund   TEXT NOT NULL,
  member TEXT NOT NULL,
  amount INTEGER NOT NULL,                  -- Milli-GPU-seconds.
  PRIMARY KEY (fund, member)
) STRICT;
INSERT INTO member_use VALUES('group:vision','ada',21600000);
INSERT INTO member_use VALUES('group:owing','bob',-3600000);
CREATE INDEX account_fund ON account (fund, kind) WHERE fund IS NOT NULL;
CREATE INDEX transfer_debit ON transfer (debit);
CREATE INDEX transfer_credit ON transfer (credit);
CREATE INDEX transfer_grant ON transfer (credit, amount) WHERE kind = 'grant';
CREATE INDEX transfer_run ON transfer (run);
CREATE INDEX transfer_hold ON transfer (hold_id, kind, amount) WHERE hold_id IS NOT NULL;
CREATE INDEX hold_run ON hold (run);
CREATE INDEX hold_open ON hold (fund) WHERE closed_seq IS NULL;
CREATE TRIGGER transfer_no_delete BEFORE DELETE ON transfer BEGIN
  SELECT RAISE(ABORT, 'a transfer is never deleted; correct it by another transfer');
END;
CREATE TRIGGER account_no_rename BEFORE UPDATE OF name, kind, fund, unit ON account BEGIN
  SELECT RAISE(ABORT, 'the identity of an account never changes');
END;
CREATE TRIGGER account_no_delete BEFORE DELETE ON account BEGIN
  SELECT RAISE(ABORT, 'an account is never deleted');
END;
CREATE TRIGGER hold_no_delete BEFORE DELETE ON hold BEGIN
  SELECT RAISE(ABORT, 'a hold is never deleted; release it');
END;
CREATE TRIGGER finding_no_update BEFORE UPDATE ON finding BEGIN
  SELECT RAISE(ABORT, 'a finding is never edited');
END;
CREATE TRIGGER finding_no_delete BEFORE DELETE ON finding BEGIN
  SELECT RAISE(ABORT, 'a finding is never deleted');
END;
CREATE TRIGGER transfer_append BEFORE INSERT ON transfer BEGIN
  SELECT RAISE(ABORT, 'a transfer goes at the end of the chain')
   WHERE NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM transfer)
      OR EXISTS (SELECT 1 FROM transfer WHERE id = NEW.id)
      OR EXISTS (SELECT 1 FROM transfer
                  WHERE seq = NEW.seq - 1 AND (hash <> NEW.prev_hash OR ts_us >= NEW.ts_us));
  SELECT RAISE(ABORT, 'a transfer joins two accounts of one unit')
   WHERE (SELECT unit FROM account WHERE name = NEW.debit)
      IS NOT (SELECT unit FROM account WHERE name = NEW.credit);
  SELECT RAISE(ABORT, 'a charge or release needs an open hold')
   WHERE NEW.hold_id IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM hold WHERE id = NEW.hold_id AND closed_seq IS NULL);
END;
CREATE TRIGGER transfer_post AFTER INSERT ON transfer BEGIN
  UPDATE account SET balance = balance - NEW.amount WHERE name = NEW.debit;
  UPDATE account SET balance = balance + NEW.amount WHERE name = NEW.credit;
END;
CREATE INDEX transfer_ref ON transfer (ref, kind, amount) WHERE ref IS NOT NULL;
CREATE TRIGGER hold_no_reopen BEFORE UPDATE ON hold WHEN OLD.closed_seq IS NOT NULL BEGIN
  SELECT RAISE(ABORT, 'a closed hold stays closed');
END;
CREATE TRIGGER hold_no_rename BEFORE UPDATE OF id, fund, run, member, gpus, expires_s ON hold BEGIN
  SELECT RAISE(ABORT, 'the identity of a hold never changes');
END;
CREATE INDEX hold_member ON hold (fund, member);
CREATE INDEX hold_expiry ON hold (expires_s) WHERE closed_seq IS NULL AND expires_s > 0;
CREATE TRIGGER transfer_post_hold AFTER INSERT ON transfer WHEN NEW.kind = 'hold' BEGIN
  INSERT INTO hold (id, fund, run, remaining, member, gpus, expires_s)
  VALUES (NEW.id, (SELECT fund FROM account WHERE name = NEW.debit), NEW.run, NEW.amount, NEW.actor,
          NEW.gpus, NEW.end_s);
END;
CREATE TRIGGER transfer_post_draw AFTER INSERT ON transfer
WHEN NEW.kind IN ('charge', 'release', 'reduce', 'extend') BEGIN
  UPDATE hold SET remaining = remaining + CASE NEW.kind WHEN 'extend' THEN NEW.amount
                                                        ELSE -NEW.amount END,
                  closed_seq = CASE NEW.kind WHEN 'release' THEN NEW.seq END
   WHERE id = NEW.hold_id;
END;
CREATE TRIGGER transfer_post_set AFTER INSERT ON transfer WHEN NEW.kind = 'set' BEGIN
  DELETE FROM setting WHERE fund = substr(NEW.credit, 6) AND name = NEW.ref;
  INSERT INTO setting (fund, name, value, since_s)
  SELECT substr(NEW.credit, 6), NEW.ref, NEW.value, NEW.start_s WHERE NEW.value IS NOT NULL;
  UPDATE account SET floor = -CAST(coalesce(NEW.value, '0') AS INTEGER)
   WHERE name = NEW.credit AND NEW.ref = 'credit_limit';
END;
CREATE TRIGGER transfer_append_2 BEFORE INSERT ON transfer BEGIN
  SELECT RAISE(ABORT, 'an extension or reduction names its hold')
   WHERE NEW.kind IN ('extend', 'reduce') AND NEW.hold_id IS NULL;
  SELECT RAISE(ABORT, 'a refund never exceeds what was charged')
   WHERE NEW.kind = 'refund'
     AND NEW.amount + (SELECT coalesce(sum(amount), 0) FROM transfer
                        WHERE ref = NEW.ref AND kind = 'refund')
       > (SELECT coalesce(sum(amount), 0) FROM transfer WHERE id = NEW.ref AND kind = 'charge')
       + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE ref = NEW.ref AND kind = 'debt');
  SELECT RAISE(ABORT, 'a repayment never exceeds the debt')
   WHERE NEW.kind = 'repay'
     AND NEW.amount > (SELECT -balance FROM account WHERE name = NEW.credit);
END;
CREATE INDEX lot_pending ON lot (fund, from_s) WHERE is_active = 0;
CREATE INDEX lot_live ON lot (fund, expires_s, grant_id) WHERE is_active = 1 AND remaining > 0;
CREATE TRIGGER lot_no_rename BEFORE UPDATE OF grant_id, fund, from_s, expires_s ON lot BEGIN
  SELECT RAISE(ABORT, 'the identity of a lot never changes');
END;
CREATE INDEX measured_run_kind ON measured_run (model, imgsz, type, ranks, ended_s);
CREATE TRIGGER measured_run_no_update BEFORE UPDATE ON measured_run BEGIN
  SELECT RAISE(ABORT, 'what was measured stays');
END;
CREATE INDEX alert_waiting ON alert_way (next_s) WHERE state = 'waiting';
CREATE INDEX transfer_taken ON transfer (debit, amount) WHERE kind IN ('take', 'due');
CREATE INDEX transfer_begin ON transfer (credit) WHERE kind = 'begin';
CREATE INDEX payment_reversal_of ON payment_reversal (provider, reference);
CREATE INDEX payment_reversed_of ON payment_reversed (grant_id);
CREATE TRIGGER payment_reversal_no_update BEFORE UPDATE ON payment_reversal BEGIN
  SELECT RAISE(ABORT, 'what was written down at the till stays');
END;
CREATE TRIGGER payment_reversal_no_delete BEFORE DELETE ON payment_reversal BEGIN
  SELECT RAISE(ABORT, 'what was written down at the till stays');
END;
CREATE TRIGGER payment_reversed_no_update BEFORE UPDATE ON payment_reversed BEGIN
  SELECT RAISE(ABORT, 'what was written down at the till stays');
END;
CREATE TRIGGER payment_reversed_no_delete BEFORE DELETE ON payment_reversed BEGIN
  SELECT RAISE(ABORT, 'what was written down at the till stays');
END;
CREATE TRIGGER transfer_append_4 BEFORE INSERT ON transfer
WHEN NEW.kind IN ('take', 'due') AND EXISTS (SELECT 1 FROM transfer WHERE id = NEW.ref) BEGIN
  SELECT RAISE(ABORT, 'a payment never gives back more than it bought')
   WHERE NEW.amount + (SELECT coalesce(sum(amount), 0) FROM transfer
                        WHERE ref = NEW.ref AND kind IN ('take', 'due'))
       > (SELECT amount FROM transfer WHERE id = NEW.ref);
END;
CREATE INDEX receipt_fund ON receipt (fund);
CREATE INDEX receipt_quote ON receipt (quote) WHERE quote <> '';
CREATE TRIGGER price_no_update BEFORE UPDATE ON price BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER price_no_delete BEFORE DELETE ON price BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER quote_no_update BEFORE UPDATE ON quote BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER quote_no_delete BEFORE DELETE ON quote BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER quote_use_no_update BEFORE UPDATE ON quote_use BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER quote_use_no_delete BEFORE DELETE ON quote_use BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER quote_content_no_update BEFORE UPDATE ON quote_content BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER quote_content_no_delete BEFORE DELETE ON quote_content BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER receipt_no_update BEFORE UPDATE ON receipt BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER receipt_no_delete BEFORE DELETE ON receipt BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER admin_act_no_update BEFORE UPDATE ON admin_act BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER admin_act_no_delete BEFORE DELETE ON admin_act BEGIN SELECT RAISE(ABORT, 'what was written down at the till stays'); END;
CREATE TRIGGER transfer_no_update BEFORE UPDATE ON transfer BEGIN
  SELECT RAISE(ABORT, 'a transfer is never edited; correct it by another transfer');
END;
CREATE VIEW member_use_sum (fund, member, amount) AS
WITH cap (fund, member, since_us) AS (
  SELECT fund, substr(name, 5), since_s * 1000000 FROM setting WHERE name GLOB 'cap/*')
SELECT fund, member, (
  SELECT coalesce(sum(
           t.amount +
           (SELECT coalesce(sum(CASE c.kind WHEN 'extend' THEN c.amount ELSE -c.amount END), 0)
              FROM transfer c
             WHERE c.hold_id = h.id AND c.kind IN ('extend', 'reduce', 'release')) -
           (SELECT coalesce(sum(r.amount), 0)  -- A refund names its charge, and so its hold.
              FROM transfer c JOIN transfer r ON r.ref = c.id AND r.kind = 'refund'
             WHERE c.hold_id = h.id AND c.kind = 'charge')), 0)
    FROM hold h JOIN transfer t ON t.id = h.id
   WHERE h.fund = cap.fund AND h.member = cap.member AND t.ts_us >= cap.since_us)
  FROM cap
;
CREATE TRIGGER setting_cap_gone AFTER DELETE ON setting WHEN OLD.name GLOB 'cap/*' BEGIN
  DELETE FROM member_use WHERE fund = OLD.fund AND member = substr(OLD.name, 5);
END;
CREATE TRIGGER setting_cap AFTER INSERT ON setting WHEN NEW.name GLOB 'cap/*' BEGIN
  INSERT INTO member_use (fund, member, amount)
  SELECT fund, member, amount FROM member_use_sum
   WHERE fund = NEW.fund AND member = substr(NEW.name, 5);
END;
CREATE TRIGGER transfer_use_hold AFTER INSERT ON transfer WHEN NEW.kind = 'hold' BEGIN
  UPDATE member_use SET amount = amount + NEW.amount
   WHERE fund = (SELECT fund FROM account WHERE name = NEW.debit) AND member = NEW.actor
     AND NEW.ts_us >= (SELECT since_s * 1000000 FROM setting s
                        WHERE s.fund = member_use.fund AND s.name = 'cap/' || member_use.member);
END;
CREATE TRIGGER transfer_use_change AFTER INSERT ON transfer
WHEN NEW.kind IN ('extend', 'reduce', 'release') BEGIN
  UPDATE member_use SET amount = amount + CASE NEW.kind WHEN 'extend' THEN NEW.amount
                                                        ELSE -NEW.amount END
   WHERE (fund, member) = (SELECT fund, member FROM hold WHERE id = NEW.hold_id)
     AND (SELECT ts_us FROM transfer WHERE id = NEW.hold_id) >=
         (SELECT since_s * 1000000 FROM setting s
           WHERE s.fund = member_use.fund AND s.name = 'cap/' || member_use.member);
END;
CREATE TRIGGER transfer_use_refund AFTER INSERT ON transfer WHEN NEW.kind = 'refund' BEGIN
  UPDATE member_use SET amount = amount - NEW.amount
   WHERE (fund, member) = (SELECT h.fund, h.member FROM transfer c JOIN hold h ON h.id = c.hold_id
                            WHERE c.id = NEW.ref AND c.kind = 'charge')
     AND (SELECT h.ts_us FROM transfer c JOIN transfer h ON h.id = c.hold_id
           WHERE c.id = NEW.ref AND c.kind = 'charge') >=
         (SELECT since_s * 1000000 FROM setting s
           WHERE s.fund = member_use.fund AND s.name = 'cap/' || member_use.member);
END;
COMMIT;
